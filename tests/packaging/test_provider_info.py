# SPDX-License-Identifier: Apache-2.0
"""What Airflow is told of the provider."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.connection import form
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.get_provider_info import get_provider_info


def schema(name: str) -> dict[str, Any]:
    found = importlib.util.find_spec("airflow")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(next(iter(found.submodule_search_locations)), name)
    if not path.exists():
        pytest.skip(f"this Airflow ships no {name}")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_metadata_is_what_airflow_accepts() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(get_provider_info(), schema("provider_info.schema.json"))


def test_the_connection_form_is_what_the_strict_schema_accepts() -> None:
    """Discovery does not look at the form's fields: a misspelt key would be lost without a word."""
    jsonschema = pytest.importorskip("jsonschema")
    whole = schema("provider.yaml.schema.json")
    part = whole["properties"]["connection-types"]
    if "definitions" in whole:
        part = {**part, "definitions": whole["definitions"]}
    jsonschema.validate(get_provider_info()["connection-types"], part)


def test_config_options_have_all_that_airflow_requires() -> None:
    options = get_provider_info()["config"]["gemini_batch"]["options"]
    assert set(options) == {
        "namespace",
        "settle_seconds",
        "checkpoint_path",
        "prices_path",
        "monthly_budget",
        "count_tokens",
        "history_path",
        "output_mode",
    }
    for option in options.values():
        assert set(option) >= {"description", "version_added", "type", "example", "default"}
        assert isinstance(option["default"], str)


def dotted_names() -> list[str]:
    info = get_provider_info()
    names = [
        module
        for kind in ("operators", "sensors", "hooks", "triggers")
        for entry in info[kind]
        for module in entry["python-modules"]
    ]
    names += [entry["hook-class-name"] for entry in info["connection-types"]]
    return names


@pytest.mark.parametrize("name", dotted_names())
def test_every_name_in_the_metadata_imports(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if attribute[0].isupper():
        assert isinstance(getattr(importlib.import_module(module), attribute), type)
    else:
        importlib.import_module(name)


def test_the_hook_agrees_with_the_metadata() -> None:
    hook = importlib.import_module("airflow_provider_gemini_batch.hooks.gemini_batch").GeminiBatchHook
    entry = get_provider_info()["connection-types"][0]
    assert (hook.conn_type, hook.hook_name) == (entry["connection-type"], entry["hook-name"])
    assert hook.get_ui_field_behaviour() == form.ui_field_behaviour()


def test_metadata_loads_neither_airflow_nor_google() -> None:
    code = (
        "import sys\n"
        "from airflow_provider_gemini_batch.get_provider_info import get_provider_info\n"
        "get_provider_info()\n"
        "from airflow_provider_gemini_batch.connection import settings as connection\n"
        "from airflow_provider_gemini_batch.transport import credentials\n"
        "heavy = {'airflow', 'google.auth', 'requests', 'httpx', 'wtforms'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_both_ways_of_declaring_the_form_have_the_same_fields() -> None:
    for module in ("wtforms", "flask_appbuilder", "flask_babel"):
        pytest.importorskip(module)
    widgets = form.connection_form_widgets()
    assert set(widgets) == set(form.connection_fields())


def test_the_two_behaviours_differ_only_in_spelling() -> None:
    snake = form.ui_field_behaviour()
    kebab = form.metadata_field_behaviour()
    assert {name.replace("_", "-"): value for name, value in snake.items()} == kebab


def test_every_field_of_the_form_means_something() -> None:
    values: dict[str, Any] = {
        "backend": "gemini",
        "project": "p-123",
        "location": "us",
        "storage_uri": "gs://bucket/x",
        "keyfile_dict": {"client_email": "a@b.example", "private_key": "x", "token_uri": "https://t.example"},
        "key_path": "/k.json",
        "credential_config_file": "/c.json",
        "impersonation_chain": "a@b.example",
        "quota_project": "q-123",
        "scopes": "https://s.example",
        "api_version": "v9",
        "timeout": 9,
        "max_retries": 9,
        "storage_host": "https://s.example",
        "bigquery_host": "https://b.example",
        "allow_http": True,
        "is_anonymous": True,
    }
    assert set(values) == set(form.EXTRA_FIELDS)
    base = {"host": "https://h.example", "conn_id": "c"}
    plain = settings_from_connection(**base, extra={"project": "q-999"})
    for name, value in values.items():
        changed = settings_from_connection(
            **base, password="k" if name == "backend" else None, extra={"project": "q-999", name: value}
        )
        assert changed != plain, name


def test_what_an_untouched_form_saves_is_an_empty_connection() -> None:
    """Airflow 3.3 stores null or an empty text for every field nobody filled in."""
    for empty in (None, ""):
        extra = dict.fromkeys(form.EXTRA_FIELDS, empty)
        assert settings_from_connection(password="k", extra=extra) == settings_from_connection(password="k")
