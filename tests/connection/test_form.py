# SPDX-License-Identifier: Apache-2.0
"""The connection form as Airflow itself draws it: each version reads it in its own way, and drops what it cannot."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import Any

import pytest

from airflow_provider_gemini_batch.connection.form import EXTRA_FIELDS, GROUPS

pytestmark = pytest.mark.xdist_group("form")

_ASK = """
import json, sys, warnings
warnings.simplefilter("ignore")
answers, sys.stdout = sys.stdout, sys.stderr  # Airflow logs to stdout
try:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
except ImportError:  # 2.11
    from airflow.providers_manager import ProvidersManager
    manager = ProvidersManager()
    prefix = "extra__gemini_batch__"
    found = [name.removeprefix(prefix) for name in manager.connection_form_widgets if name.startswith(prefix)]
    behaviour = manager.field_behaviours.get("gemini_batch") or {}
    labels, hidden = behaviour.get("relabeling", {}), behaviour.get("hidden_fields", [])
    fields = {name: None for name in found}
else:
    [hook] = [hook for hook in HookMetaService.hook_meta_data() if hook.connection_type == "gemini_batch"]
    fields = {name: param["schema"] for name, param in (hook.extra_fields or {}).items()}
    standard = hook.standard_fields.model_dump() if hook.standard_fields else {}
    shown = {name: field or {} for name, field in standard.items()}
    labels = {name: field["title"] for name, field in shown.items() if field.get("title")}
    hidden = [name.replace("url_schema", "schema") for name, field in shown.items() if field.get("hidden")]
print(json.dumps({"fields": fields, "labels": labels, "hidden": hidden}), file=answers)
"""


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    if importlib.metadata.version("apache-airflow").startswith("3.0."):
        pytest.importorskip("wtforms", reason="without it Airflow 3.0 shows no provider's fields")
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=120, check=False)
    assert asked.returncode == 0, asked.stderr
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def test_every_field_is_in_the_form(form: dict[str, Any]) -> None:
    assert set(form["fields"]) == set(EXTRA_FIELDS)


def test_labels_say_what_the_common_fields_mean_here(form: dict[str, Any]) -> None:
    assert form["labels"] == {"host": "Base URL", "password": "API key"}
    assert {"schema", "login"} <= set(form["hidden"])
    assert "port" not in form["hidden"]  # a base URL may have its port apart


def test_every_field_stands_in_one_group_in_the_order_of_the_form() -> None:
    assert [name for names in GROUPS.values() for name in names] == list(EXTRA_FIELDS)


def test_form_shows_groups_and_the_names_of_json(form: dict[str, Any]) -> None:
    schema = form["fields"]["storage_uri"]
    if schema is None or "section" not in schema:
        pytest.skip("before Airflow 3.2 the form has no sections")
    assert schema["section"] == "Vertex AI"
    assert schema["title"] == "Storage place (storage_uri)"


def test_the_backends_are_offered_as_choices(form: dict[str, Any]) -> None:
    schema = form["fields"]["backend"]
    if schema is not None:
        assert schema["enum"] == ["", "gemini", "vertex_ai"]


_WITHOUT_LIBRARY = """
import json, sys, warnings
warnings.simplefilter("ignore")
answers, sys.stdout = sys.stdout, sys.stderr
for name in ("wtforms", "flask_appbuilder", "flask_babel"):
    sys.modules[name] = None  # as in an Airflow without the FAB provider
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow_provider_gemini_batch.plugins.page.registration import fastapi_apps
assert list(fastapi_apps()) == []  # what the API server does
[hook] = [hook for hook in HookMetaService.hook_meta_data() if hook.connection_type == "gemini_batch"]
standard = hook.standard_fields.model_dump()
print(json.dumps({"fields": hook.extra_fields, **standard}), file=answers)
"""


def test_airflow_3_0_draws_the_form_without_its_library_too() -> None:
    if not importlib.metadata.version("apache-airflow").startswith("3.0."):
        pytest.skip("later versions read the metadata or bring stand-ins")
    asked = subprocess.run(
        [sys.executable, "-c", _WITHOUT_LIBRARY], capture_output=True, text=True, timeout=120, check=False
    )
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert set(answer["fields"]) == set(EXTRA_FIELDS)
    assert answer["fields"]["keyfile_dict"]["schema"]["format"] == "password"
    assert answer["password"]["title"] == "API key"
    assert answer["login"]["hidden"]
