# SPDX-License-Identifier: Apache-2.0
"""What an Airflow connection means."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest

from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.connection.settings import ConnectionSettings, Secret
from airflow_provider_gemini_batch.connection.urls import is_loopback, vertex_base_url
from airflow_provider_gemini_batch.errors import ConfigurationError

KEY = {
    "type": "service_account",
    "project_id": "key-project",
    "client_email": "batch@key-project.iam.gserviceaccount.com",
    "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIsecret\\n-----END PRIVATE KEY-----\\n",
    "token_uri": "https://oauth2.googleapis.com/token",
}
API_KEY = "AIza-very-secret"


def read(**fields: Any) -> ConnectionSettings:
    return settings_from_connection(conn_id="c", **fields)


def vertex(**extra: Any) -> ConnectionSettings:
    return read(extra={"project": "p-123", **extra})


def complaint(**fields: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(**fields)
    return str(caught.value)


def test_a_password_alone_means_the_developer_api() -> None:
    settings = read(password=API_KEY)
    assert (settings.backend, settings.base_url, settings.api_version) == (
        "gemini",
        "https://generativelanguage.googleapis.com",
        "v1beta",
    )
    assert settings.api_key is not None
    assert settings.api_key.reveal() == API_KEY
    assert (settings.timeout, settings.max_retries) == (60.0, 5)


def test_no_password_means_vertex_ai() -> None:
    settings = vertex()
    assert (settings.backend, settings.location, settings.api_version) == ("vertex_ai", "global", "v1")
    assert settings.scopes == ("https://www.googleapis.com/auth/cloud-platform",)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("us-central1", "https://us-central1-aiplatform.googleapis.com"),
        ("global", "https://aiplatform.googleapis.com"),
        ("us", "https://aiplatform.us.rep.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_each_form_of_location_has_its_host(location: str, url: str) -> None:
    assert vertex(location=location).base_url == vertex_base_url(location) == url


def test_the_hosts_are_those_of_the_sdk() -> None:
    genai = pytest.importorskip("google.genai")
    credentials = pytest.importorskip("google.auth.credentials").AnonymousCredentials()
    for location in ("us-central1", "global", "us", "eu"):
        client = genai.Client(vertexai=True, project="p-123", location=location, credentials=credentials)
        assert client._api_client._http_options.base_url.rstrip("/") == vertex_base_url(location)


def test_the_backend_argument_wins_over_the_connection() -> None:
    settings = read(password=API_KEY, extra={"backend": "gemini", "project": "p-123"}, backend="vertex_ai")
    assert settings.backend == "vertex_ai"
    assert settings.api_key is None


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "proxy.example.com"}, "https://proxy.example.com"),
        ({"host": "proxy.example.com", "port": 8443}, "https://proxy.example.com:8443"),
        ({"host": "https://Proxy.example.com/gemini/"}, "https://proxy.example.com/gemini"),
        ({"host": "127.0.0.1", "port": "8086", "schema": "http"}, "http://127.0.0.1:8086"),
        ({"host": "http://localhost:8086", "port": 8086}, "http://localhost:8086"),
        ({"host": "http://[::1]:8086/"}, "http://[::1]:8086"),
        ({"host": "http://emulator:8086", "extra": {"allow_http": True}}, "http://emulator:8086"),
        ({"host": "http://emulator:8086", "extra": {"allow_http": "true"}}, "http://emulator:8086"),
        ({"host": "generativelanguage.googleapis.com", "port": 0}, "https://generativelanguage.googleapis.com"),
        ({"host": "localhost:8086"}, "http://localhost:8086"),
        ({"host": "127.0.0.1", "port": 8086}, "http://127.0.0.1:8086"),
        ({"host": "localhost:8443", "schema": "https"}, "https://localhost:8443"),
    ],
)
def test_a_host_comes_in_many_forms(fields: dict[str, Any], url: str) -> None:
    assert read(password=API_KEY, **fields).base_url == url


@pytest.mark.parametrize(
    ("host", "given", "base_url", "version"),
    [
        ("https://a.example/v1beta", "", "https://a.example", "v1beta"),
        ("https://a.example/v1/", "", "https://a.example", "v1"),
        ("https://a.example/v1beta/openai/", "", "https://a.example", "v1beta"),
        ("https://a.example/gw/v1alpha", "", "https://a.example/gw", "v1alpha"),
        ("https://a.example/v1beta", "v1beta", "https://a.example", "v1beta"),
        # Both were said on purpose: a gateway with a version of its own in front of the service's.
        ("https://a.example/v1", "v1beta", "https://a.example/v1", "v1beta"),
        ("https://a.example/v1/gemini", "", "https://a.example/v1/gemini", "v1beta"),
        ("https://a.example/openai", "", "https://a.example/openai", "v1beta"),
    ],
)
def test_a_base_url_may_end_in_its_version(host: str, given: str, base_url: str, version: str) -> None:
    settings = read(password=API_KEY, host=host, extra={"api_version": given})
    assert (settings.base_url, settings.api_version) == (base_url, version)


def test_a_misspelt_extra_is_named_with_what_may_be_meant() -> None:
    notes = read(password=API_KEY, extra={"Storage-URI": "gs://b", "team": "search", "timeout": 5}).notes
    assert notes == (
        "Extra 'Storage-URI' is not known and has no effect; 'storage_uri' may be meant.",
        "Extra 'team' is not known and has no effect.",
    )


def test_members_of_a_google_connection_for_other_purposes_are_not_named() -> None:
    notes = read(conn_type="google_cloud_platform", extra={"project": "p-1", "is_anon": True, "locaton": "us"}).notes
    assert notes == ("Extra 'locaton' is not known and has no effect; 'location' may be meant.",)


def test_services_beside_the_api_are_googles_unless_named() -> None:
    assert vertex().storage_base_url == "https://storage.googleapis.com"
    assert vertex().bigquery_base_url == "https://bigquery.googleapis.com"
    named = vertex(storage_host="http://127.0.0.1:1/", bigquery_host="https://bq.example.com")
    assert (named.storage_base_url, named.bigquery_base_url) == ("http://127.0.0.1:1", "https://bq.example.com")


GOOGLE = {"storage": "https://storage.googleapis.com", "bigquery": "https://bigquery.googleapis.com"}


@pytest.mark.parametrize(
    ("host", "follows", "iam_follows"),
    [
        ("", False, False),
        ("https://us-aiplatform.googleapis.com", False, False),
        ("https://aiplatform-ours.p.googleapis.com", False, False),
        ("http://aiplatform.googleapis.com", False, False),
        ("http://127.0.0.1:9", True, True),
        ("https://localhost:9", True, True),
        ("http://emulator:9", True, True),
        # A proxy of Vertex AI: what it serves beside that nobody knows, so nothing goes past it unless named.
        ("https://vertex.example.com/google", True, False),
        ("https://evilgoogleapis.com", True, False),
    ],
)
def test_rows_and_tokens_go_to_google_only_where_the_host_is_googles(
    host: str, follows: bool, iam_follows: bool
) -> None:
    extra = {"project": "p-123", "allow_http": True}
    settings = read(host=host, extra=extra)
    wanted = {"storage": host, "bigquery": host} if follows else GOOGLE
    assert {"storage": settings.storage_base_url, "bigquery": settings.bigquery_base_url} == wanted
    assert settings.iam_base_url == (host if iam_follows else "")
    named = {f"{name}_host": url for name, url in GOOGLE.items()}
    settings = read(host=host, extra={**extra, **named})
    assert {"storage": settings.storage_base_url, "bigquery": settings.bigquery_base_url} == GOOGLE, "named ones win"


def test_numbers_may_be_text() -> None:
    settings = read(password=API_KEY, extra={"timeout": "2.5", "max_retries": "7"})
    assert (settings.timeout, settings.max_retries) == (2.5, 7)


def test_a_google_connection_is_read_under_its_own_names() -> None:
    settings = read(
        conn_type="google_cloud_platform",
        schema="default",
        extra={
            "project": "p-123",
            "scope": "https://a.example/x, https://a.example/y",
            "num_retries": 3,
            "impersonation_chain": "a@p.example, b@p.example",
            "quota_project_id": "q-123",
            "keyfile_dict": json.dumps(KEY),
        },
    )
    assert settings.backend == "vertex_ai"
    assert settings.scopes == ("https://a.example/x", "https://a.example/y")
    assert (settings.max_retries, settings.quota_project) == (3, "q-123")
    assert settings.impersonation_chain == ("a@p.example", "b@p.example")


def test_a_google_connection_with_old_prefixes_means_the_same() -> None:
    extra = {"project": "p-123", "num_retries": "3", "keyfile_dict": json.dumps(KEY), "scope": "https://a.example/x"}
    old = {f"extra__google_cloud_platform__{name}": value for name, value in extra.items()}
    plain = read(conn_type="google_cloud_platform", extra=extra)
    assert read(conn_type="google_cloud_platform", extra=old) == plain


def test_every_extra_of_the_google_connection_is_read_or_refused() -> None:
    """A field that Google's own hook offers must never be passed over in silence when it says who calls."""
    for name in ("key_secret_name", "idp_issuer_url"):
        text = complaint(conn_type="google_cloud_platform", extra={"project": "p-123", name: "x"})
        assert name in text
        assert "keyfile_dict" in text


def test_the_project_may_come_from_the_key(tmp_path: Any) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(KEY))
    assert read(extra={"keyfile_dict": KEY}).project == "key-project"
    assert read(extra={"key_path": str(path)}).project == "key-project"
    assert read(extra={"keyfile_dict": KEY, "project": "other"}).project == "other"


def test_doubled_line_ends_of_a_key_are_undone() -> None:
    secret = read(extra={"keyfile_dict": json.dumps(KEY)}).keyfile_dict
    assert secret is not None
    assert json.loads(secret.reveal())["private_key"].splitlines()[1] == "MIIsecret"


def test_the_developer_api_takes_google_credentials_where_they_are_given() -> None:
    settings = read(extra={"backend": "gemini", "keyfile_dict": KEY})
    assert settings.backend == "gemini"
    assert settings.api_key is None
    assert settings.has_credential_fields


def test_unknown_extras_are_left_alone() -> None:
    assert read(password=API_KEY, extra={"team": "search"}) == read(password=API_KEY)


BAD: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("unknown backend", {"password": API_KEY, "extra": {"backend": "bedrock"}}, ("Backend", "bedrock", "vertex_ai")),
    ("unknown argument", {"password": API_KEY, "backend": "x"}, ("argument backend", "gemini")),
    ("no key", {"extra": {"backend": "gemini"}}, ("API key (password)", "empty", "vertex_ai")),
    ("no project", {"extra": {"backend": "vertex_ai"}}, ("Project", "empty", "API key")),
    ("key, no project", {"password": API_KEY, "extra": {"backend": "vertex_ai"}}, ("Project", "to gemini")),
    ("blanks in key", {"password": "AIza x"}, ("API key", "copy it again")),
    ("no url", {"password": API_KEY, "host": "http://"}, ("Base URL (host)", "not a URL")),
    ("bad port in url", {"password": API_KEY, "host": "https://a:b"}, ("Base URL (host)", "not a URL")),
    ("ftp", {"password": API_KEY, "host": "ftp://a.example"}, ("Base URL (host)", "ftp://")),
    ("query", {"password": API_KEY, "host": "https://a.example/?key=x"}, ("Base URL (host)", "?")),
    ("user in url", {"password": API_KEY, "host": "https://u:pw@a.example"}, ("Base URL (host)", "own field")),
    ("plain http", {"password": API_KEY, "host": "http://a.example"}, ("Base URL (host)", "allow_http")),
    ("plain http by schema", {"password": API_KEY, "host": "a.example", "schema": "http"}, ("allow_http",)),
    ("two ports", {"password": API_KEY, "host": "https://a.example:1", "port": 2}, ("port 1", "2")),
    ("port", {"password": API_KEY, "host": "a.example", "port": "x"}, ("Port", "'x'")),
    ("port range", {"password": API_KEY, "host": "a.example", "port": 99999}, ("Port", "99999")),
    ("schema", {"password": API_KEY, "schema": "gopher"}, ("Schema", "gopher")),
    ("timeout", {"password": API_KEY, "extra": {"timeout": "soon"}}, ("Timeout", "'soon'", "seconds")),
    ("timeout 0", {"password": API_KEY, "extra": {"timeout": 0}}, ("Timeout", "above 0")),
    ("timeout inf", {"password": API_KEY, "extra": {"timeout": "inf"}}, ("Timeout", "'inf'")),
    ("timeout flag", {"password": API_KEY, "extra": {"timeout": True}}, ("Timeout", "True")),
    ("tries", {"password": API_KEY, "extra": {"max_retries": 2.5}}, ("Tries", "whole number", "2.5")),
    ("tries below 0", {"password": API_KEY, "extra": {"max_retries": -1}}, ("Tries", "-1")),
    ("flag", {"password": API_KEY, "extra": {"allow_http": "maybe"}}, ("Allow plain HTTP", "maybe")),
    ("version", {"password": API_KEY, "extra": {"api_version": "1/../x"}}, ("API version", "v1beta")),
    ("storage place", {"extra": {"project": "p-1", "storage_uri": "s3://b/x"}}, ("Storage place", "gs://bucket")),
    ("storage wildcard", {"extra": {"project": "p-1", "storage_uri": "gs://bkt/x*"}}, ("Storage place",)),
    ("storage host", {"extra": {"project": "p-1", "storage_host": "http://a.example"}}, ("Cloud Storage URL",)),
    ("bigquery host", {"extra": {"project": "p-1", "bigquery_host": "a b"}}, ("BigQuery URL",)),
    ("key no JSON", {"extra": {"project": "p-1", "keyfile_dict": "{'a'"}}, ("Key JSON", "not JSON")),
    ("key a list", {"extra": {"project": "p-1", "keyfile_dict": "[1]"}}, ("Key JSON", "a list")),
    ("key lacks", {"extra": {"project": "p-1", "keyfile_dict": {"client_email": "a"}}}, ("private_key, token_uri",)),
    ("key type", {"extra": {"project": "p-1", "keyfile_dict": {"type": "authorized_user"}}}, ("authorized_user",)),
    (
        "key's token_uri",
        {"extra": {"keyfile_dict": {**KEY, "token_uri": "http://a.example/t"}}},
        ("Key JSON", "allow_http"),
    ),
    ("key path", {"extra": {"key_path": "/does/not/exist.json"}}, ("Key path", "No such file", "Project")),
    (
        "two credentials",
        {"extra": {"project": "p-1", "keyfile_dict": KEY, "key_path": "/k.json"}},
        ("keep one",),
    ),
    ("project", {"extra": {"project": "my project/x"}}, ("Project", "my project/x")),
    ("location", {"extra": {"project": "p-1", "location": "us central"}}, ("Location", "us-central1")),
    ("account", {"extra": {"project": "p-1", "impersonation_chain": "bob"}}, ("Impersonation chain", "'bob'")),
    ("scopes", {"extra": {"project": "p-1", "scopes": {"a": 1}}}, ("Scopes", "list")),
    ("quota", {"extra": {"project": "p-1", "quota_project": "x y"}}, ("Quota project",)),
    ("anonymous", {"extra": {"project": "p-1", "is_anonymous": True}}, ("Anonymous", "Base URL")),
    ("key as host", {"host": "AIzaSyMade-Up-0123456789abcdefghij"}, ("Base URL (host)", "gemini-batch://:KEY@/")),
    ("key as user", {"login": "some-key", "extra": {"backend": "gemini"}}, ("API key (password)", "after a colon")),
    ("type", {"conn_type": "http", "password": API_KEY}, ("'http'", "gemini_batch")),
    ("extra", {"password": API_KEY, "extra": ["x"]}, ("Extra must be a JSON object",)),
]


@pytest.mark.parametrize(("fields", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_field_is_named_with_the_way_out(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    text = complaint(**fields)
    for word in words:
        assert word in text
    assert "'c'" in text, "the connection is named"
    for secret in (API_KEY, "MIIsecret", "u:pw"):
        assert secret not in text


def test_all_bad_fields_are_named_at_once() -> None:
    text = complaint(
        host="ftp://x", extra={"backend": "gemini", "timeout": "a", "max_retries": "b", "storage_uri": "x"}
    )
    for name in ("host", "timeout", "max_retries", "storage_uri", "password"):
        assert name in text
    assert text.count("\n  - ") == 5


def test_a_connection_shows_no_secret() -> None:
    settings = read(password=API_KEY, extra={"keyfile_dict": KEY, "credential_config_file": ""})
    shown = [repr(settings), str(settings), f"{settings}", repr(dataclasses.asdict(settings)), repr(vars(settings))]
    shown += [repr(dataclasses.astuple(settings)), json.dumps(dataclasses.asdict(settings), default=str)]
    for text in shown:
        assert API_KEY not in text
        assert "MIIsecret" not in text
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(settings)
    assert copy.deepcopy(settings) == settings


def test_identity_changes_with_every_credential_and_setting() -> None:
    other = {**KEY, "private_key": "-----BEGIN PRIVATE KEY-----\nother\n-----END PRIVATE KEY-----\n"}
    variants = [
        read(password=API_KEY),
        read(password=API_KEY + "2"),
        read(password=API_KEY, extra={"timeout": 3}),
        vertex(),
        vertex(keyfile_dict=KEY),
        vertex(keyfile_dict=other),
        vertex(key_path="/a"),
        vertex(scopes="https://a.example/x"),
        vertex(impersonation_chain="a@p.example"),
        vertex(location="us"),
    ]
    assert len({settings.identity for settings in variants}) == len(variants)
    assert read(password=API_KEY).identity == settings_from_connection(conn_id="d", password=API_KEY).identity
    assert API_KEY not in variants[0].identity


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]", "LOCALHOST", "a.localhost"])
def test_this_machine_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", ""])
def test_other_machines_are_not_taken_for_this_one(host: str) -> None:
    assert not is_loopback(host)


def test_secrets_compare_by_what_they_hide() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
