# SPDX-License-Identifier: Apache-2.0
"""What people type into a connection at first, by form, URI and JSON: it works, or the field is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.connection.form import EXTRA_FIELDS
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

KEY = "AIza-very-secret"
SCOPES = ("https://a.example/x", "https://a.example/y")
ACCOUNT = {
    "type": "service_account",
    "project_id": "key-project",
    "client_email": "batch@key-project.iam.gserviceaccount.com",
    "private_key": "-----BEGIN PRIVATE KEY-----\nMIIsecret\n-----END PRIVATE KEY-----\n",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def read(**fields: Any) -> ConnectionSettings:
    return settings_from_connection(conn_id="c", **fields)


def complaint(**fields: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(**fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("a.example", None, "https://a.example"),
        ("a.example", 0, "https://a.example"),
        ("a.example", "0", "https://a.example"),
        ("a.example", "", "https://a.example"),
        ("a.example", " 8443 ", "https://a.example:8443"),
        ("a.example/", 8443, "https://a.example:8443"),
        ("a.example//", None, "https://a.example"),
        ("a.example:8443/gw/", None, "https://a.example:8443/gw"),
        ("  a.example\n", None, "https://a.example"),
        ("a.example.", None, "https://a.example."),
        ("https://a.example///", 0, "https://a.example"),
        ("https://a.example:", 8443, "https://a.example:8443"),
        ("HTTPS://A.EXAMPLE/v1beta/", None, "https://a.example"),
        ("generativelanguage.googleapis.com/v1beta/openai/", None, "https://generativelanguage.googleapis.com"),
        ("localhost", 8086, "http://localhost:8086"),
        ("127.0.0.1:8086/", 0, "http://127.0.0.1:8086"),
        ("[::1]:8086", None, "http://[::1]:8086"),
        ("[::1]", 8086, "http://[::1]:8086"),
        ("::1", 8086, "http://[::1]:8086"),
        ("::1", None, "http://[::1]"),
        ("2001:db8::1", 8443, "https://[2001:db8::1]:8443"),
        ("https://[2001:DB8::1]/", 8443, "https://[2001:db8::1]:8443"),
        ("https://[2001:db8::1]:8443/gw/", None, "https://[2001:db8::1]:8443/gw"),
    ],
)
def test_a_base_url_is_understood_as_it_is_typed(host: str, port: Any, url: str) -> None:
    assert read(password=KEY, host=host, port=port).base_url == url


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("https:/a.example", None, "Base URL (host)"),
        ("https//a.example", None, "Base URL (host)"),
        ("https:a.example", None, "Base URL (host)"),
        ("https://https://a.example", None, "Base URL (host)"),
        ("//a.example", None, "Base URL (host)"),
        ("/v1beta", None, "Base URL (host)"),
        ("a.example:port", None, "Base URL (host)"),
        ("https://a.example:0", None, "Base URL (host)"),
        ("https://[::1", None, "Base URL (host)"),
        ("https://[2001:db8::zz]", None, "Base URL (host)"),
        ("2001:db8::1:8443", 70000, "Port (port)"),
        ("a b.example", None, "Base URL (host)"),
        ("a.example, b.example", None, "Base URL (host)"),
        ("gs://bucket/prefix", None, "Base URL (host)"),
        ("a.example", -1, "Port (port)"),
        ("a.example", "https", "Port (port)"),
        ("a.example", 65536, "Port (port)"),
        ("a.example:1", 2, "Base URL (host)"),
    ],
)
def test_a_base_url_that_cannot_be_one_names_the_field(host: str, port: Any, words: str) -> None:
    text = complaint(password=KEY, host=host, port=port)
    assert words in text
    assert KEY not in text


def misspelt(name: str) -> set[str]:
    """Return how people misspell a name: a letter too few, too many or in the wrong place, other cases and dashes."""
    middle = len(name) // 2
    words = name.split("_")
    spellings = {
        name[:middle] + name[middle + 1 :],
        name[:middle] + name[middle] + name[middle:],
        name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :],
        name.upper(),
        name.capitalize(),
        name.replace("_", "-"),
        name.replace("_", " "),
        words[0] + "".join(word.capitalize() for word in words[1:]),
        f"{name}s",
        f" {name}",
        f"{name} ",
    }
    return spellings - set(EXTRA_FIELDS)


@pytest.mark.parametrize("name", EXTRA_FIELDS)
def test_a_misspelt_extra_is_named_with_the_one_that_may_be_meant(name: str) -> None:
    for spelling in misspelt(name):
        [note] = read(password=KEY, extra={"backend": "gemini", spelling: "x"}).notes
        assert repr(spelling) in note
        assert f"{name!r} may be meant" in note


@pytest.mark.parametrize(
    ("extra", "spelt", "field"),
    [
        ({"projct": "p-123"}, "projct", "Project"),
        ({"backend": "vertex_ai", "Project": "p-123"}, "Project", "Project"),
        ({"backend": "gemini", "pasword": "x"}, "pasword", "API key (password)"),
        ({"backend": "gemini", "api_key": "x"}, "api_key", "API key (password)"),
        (
            {"backend": "vertex_ai", "project": "p-123", "storage-uri": "gs://b", "timeout": "x"},
            "storage-uri",
            "Timeout",
        ),
    ],
)
def test_a_misspelt_extra_is_named_where_the_connection_cannot_work(extra: Any, spelt: str, field: str) -> None:
    text = complaint(extra=extra)
    assert field in text
    assert f"Extra {spelt!r} is not known" in text


def test_a_name_of_an_extra_that_is_a_key_is_not_shown() -> None:
    key = "AIzaSyMade-Up-0123456789abcdefghij"
    assert key not in complaint(extra={key: "x"})


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        ({"timeout": "30", "max_retries": "3"}, {"timeout": 30.0, "max_retries": 3}),
        ({"timeout": " 2.5 "}, {"timeout": 2.5}),
        ({"timeout": None, "location": "", "scopes": []}, {"timeout": 60.0}),
        ({"allow_http": "True"}, {"allow_http": True}),
        ({"is_anonymous": "false"}, {"is_anonymous": False}),
        ({"scopes": '["https://a.example/x", "https://a.example/y"]'}, {"scopes": SCOPES}),
        ({"scopes": "https://a.example/x, https://a.example/y"}, {"scopes": SCOPES}),
        ({"impersonation_chain": '["a@p.example"]'}, {"impersonation_chain": ("a@p.example",)}),
        ({"storage_uri": "gs://bucket/prefix//"}, {"storage_uri": "gs://bucket/prefix"}),
        ({"storage_uri": "gs://bucket/"}, {"storage_uri": "gs://bucket"}),
        ({"storage_host": "storage.example/"}, {"storage_base_url": "https://storage.example"}),
        ({"bigquery_host": "[::1]:9050"}, {"bigquery_base_url": "http://[::1]:9050"}),
        ({"location": "US-Central1"}, {"location": "us-central1"}),
        ({"project": 123456789}, {"project": "123456789"}),
        ({"keyfile_dict": json.dumps(ACCOUNT)}, {"project": "p-123"}),
        ({"keyfile_dict": json.dumps(json.dumps(ACCOUNT))}, {"project": "p-123"}),
    ],
)  # fmt: skip
def test_an_extra_may_be_written_as_text(extra: dict[str, Any], found: dict[str, Any]) -> None:
    settings = read(extra={"project": "p-123", "backend": "vertex_ai", **extra})
    assert {name: getattr(settings, name) for name in found} == found


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"storage_uri": "bucket/prefix"}, "Storage place"),
        ({"storage_uri": "gs:/bucket"}, "Storage place"),
        ({"storage_uri": "gs://"}, "Storage place"),
        ({"storage_uri": "gs://My_Bucket"}, "Storage place"),
        ({"storage_uri": "https://storage.googleapis.com/bucket"}, "Storage place"),
        ({"storage_uri": ["gs://bucket"]}, "Storage place"),
        ({"keyfile_dict": "/opt/key.json"}, "Key JSON"),
        ({"keyfile_dict": '{"type": "service_account",'}, "Key JSON"),
        ({"keyfile_dict": "[]"}, "Key JSON"),
        ({"scopes": "[https://a.example]"}, "Scopes"),
        ({"location": "us-central1/"}, "Location"),
        ({"timeout": "30s"}, "Timeout"),
        ({"timeout": {"seconds": 3}}, "Timeout"),
        ({"max_retries": "three"}, "Tries"),
        ({"allow_http": "yes please"}, "Allow plain HTTP"),
        ({"api_version": "beta"}, "API version"),
    ],
)
def test_an_extra_that_cannot_work_is_named(extra: dict[str, Any], words: str) -> None:
    text = complaint(extra={"project": "p-123", "backend": "vertex_ai", **extra})
    assert words in text
    assert "MIIsecret" not in text


AIRFLOW_FORMS: dict[str, str] = {
    "JSON": json.dumps({"conn_type": "gemini_batch", "password": KEY, "extra": {"timeout": 5}}),
    "JSON, type with a hyphen": json.dumps({"conn_type": "gemini-batch", "password": KEY, "extra": {"timeout": 5}}),
    "JSON without a type": json.dumps({"password": KEY, "extra": {"timeout": 5}}),
    "JSON, extra as text": json.dumps({"conn_type": "gemini_batch", "password": KEY, "extra": '{"timeout": 5}'}),
    "JSON, port 0": json.dumps({"conn_type": "gemini_batch", "password": KEY, "port": 0, "extra": {"timeout": "5"}}),
    "JSON, port null": json.dumps(
        {"conn_type": "gemini_batch", "password": KEY, "port": None, "extra": {"timeout": 5}}
    ),
    "JSON, port as text": json.dumps(
        {"conn_type": "gemini_batch", "password": KEY, "port": "0", "extra": {"timeout": 5}}
    ),
    "JSON, empty texts": json.dumps(
        {"conn_type": "gemini_batch", "password": KEY, "host": "", "login": "", "schema": "", "extra": {"timeout": 5}}
    ),
    "URI": f"gemini-batch://:{KEY}@/?timeout=5",
    "URI with __extra__": f"gemini-batch://:{KEY}@/?__extra__=%7B%22timeout%22%3A+5%7D",
}


@pytest.mark.parametrize("form", AIRFLOW_FORMS.values(), ids=AIRFLOW_FORMS)
def test_airflow_hands_the_same_connection_over_in_every_form(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TYPED", form)
    settings = GeminiBatchHook("typed").settings
    assert (settings.backend, settings.base_url, settings.timeout) == (
        "gemini", "https://generativelanguage.googleapis.com", 5.0,
    )  # fmt: skip
    assert settings.api_key is not None
    assert settings.api_key.reveal() == KEY


BROKEN_FORMS: dict[str, str] = {
    "extra a list": json.dumps({"conn_type": "gemini_batch", "password": KEY, "extra": [1]}),
    "extra no JSON": json.dumps({"conn_type": "gemini_batch", "password": KEY, "extra": "timeout=5"}),
    "extra JSON twice": json.dumps({"conn_type": "gemini_batch", "password": KEY, "extra": '"{}"'}),
    "another type": json.dumps({"conn_type": "http", "password": KEY}),
    "scheme with an underscore": f"gemini_batch://:{KEY}@/",
    "the key alone": KEY,
    "JSON cut short": '{"conn_type": "gemini_batch", "password": "' + KEY,
    "two ports": json.dumps({"conn_type": "gemini_batch", "password": KEY, "host": "a.example:1", "port": 2}),
}


@pytest.mark.parametrize("form", BROKEN_FORMS.values(), ids=BROKEN_FORMS)
def test_the_test_says_what_is_wrong_and_shows_no_key(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TYPED", form)
    ok, text = GeminiBatchHook("typed").test_connection()
    assert not ok
    assert "'typed'" in text
    assert KEY not in text
