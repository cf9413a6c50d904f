# SPDX-License-Identifier: Apache-2.0
"""Headers that prove who calls, got from the emulator's token endpoints by google-auth itself."""

from __future__ import annotations

import json
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import AuthError, ConfigurationError, GeminiBatchError, TransportError
from airflow_provider_gemini_batch.transport.credentials import (
    ApiKeyCredentials,
    Credentials,
    FixedCredentials,
    credentials_for,
)
from airflow_provider_gemini_batch.transport.google_tokens import GoogleAuthCredentials
from gemini_batch_emulator.pytest_plugin import LOCATION, PROJECT, EmulatorHandle
from gemini_batch_emulator.token import create_service_account, token_desk
from tests.support.frames import frames_of

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

TARGET = "target@emulated-project.iam.gserviceaccount.com"


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle) -> EmulatorHandle:
    """An emulator that takes no token but those it gave out."""
    gemini_batch_emulator.configure(accepted_tokens=[])
    return gemini_batch_emulator


def settings(emulator: EmulatorHandle, **extra: Any) -> ConnectionSettings:
    extra = {"backend": "vertex_ai", "project": PROJECT, "location": LOCATION, **extra}
    return settings_from_connection(conn_id="c", host=emulator.url, extra=extra)


def with_key(emulator: EmulatorHandle, **extra: Any) -> ConnectionSettings:
    return settings(emulator, keyfile_dict=create_service_account(emulator.state), **extra)


def call(emulator: EmulatorHandle, headers: dict[str, str]) -> int:
    """Status of a list call with *headers*."""
    url = f"{emulator.url}/v1/projects/{PROJECT}/locations/{LOCATION}/batchPredictionJobs"
    return requests.get(url, headers=headers, timeout=10).status_code


def issued(emulator: EmulatorHandle) -> int:
    return token_desk(emulator.state).issued


def failure(credentials: Credentials) -> GeminiBatchError:
    with pytest.raises(GeminiBatchError) as caught:
        credentials.headers()
    assert caught.value.__cause__ is None or isinstance(caught.value, ConfigurationError)
    text = str(caught.value)
    shown = "".join(values for _, values in frames_of(caught.value))
    for secret in ("BEGIN", "ya29", "eyJ"):
        assert secret not in text
        assert secret not in shown
    return caught.value


def test_an_api_key_is_a_header() -> None:
    credentials = credentials_for(settings_from_connection(password="AIza"))
    assert isinstance(credentials, ApiKeyCredentials)
    assert credentials.headers() == {"x-goog-api-key": "AIza"}
    credentials.invalidate()
    assert credentials.headers() == {"x-goog-api-key": "AIza"}
    assert "AIza" not in repr(credentials) + repr(vars(credentials))


def test_anonymous_sends_nothing(emulator: EmulatorHandle) -> None:
    credentials = credentials_for(settings(emulator, is_anonymous=True))
    assert isinstance(credentials, FixedCredentials)
    assert credentials.headers() == {}


def test_a_key_gets_a_token_that_the_service_accepts(emulator: EmulatorHandle) -> None:
    credentials = credentials_for(with_key(emulator))
    assert issued(emulator) == 0, "nothing is fetched before it is asked for"
    headers = credentials.headers()
    assert set(headers) == {"Authorization"}
    assert call(emulator, headers) == 200
    assert credentials.headers() == headers
    [token] = token_desk(emulator.state).tokens.values()
    assert token.grant == "jwt-bearer"
    assert token.scopes == ("https://www.googleapis.com/auth/cloud-platform",)


def test_scopes_and_quota_project_are_sent(emulator: EmulatorHandle) -> None:
    credentials = credentials_for(with_key(emulator, scopes="https://a.example/x", quota_project="payer-1"))
    assert credentials.headers()["x-goog-user-project"] == "payer-1"
    [token] = token_desk(emulator.state).tokens.values()
    assert token.scopes == ("https://a.example/x",)


def test_a_key_file_works_as_the_key_does(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(create_service_account(emulator.state)))
    assert call(emulator, credentials_for(settings(emulator, key_path=str(path))).headers()) == 200


def test_a_key_file_that_was_exchanged_is_read_anew_after_a_refusal(emulator: EmulatorHandle, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(create_service_account(emulator.state, email="old@p.iam.gserviceaccount.com")))
    credentials = GoogleAuthCredentials(settings(emulator, key_path=str(path)))
    credentials.headers()
    path.write_text(json.dumps(create_service_account(emulator.state, email="new@p.iam.gserviceaccount.com")))
    credentials.invalidate()
    credentials.headers()
    principals = [token.principal for token in token_desk(emulator.state).tokens.values()]
    assert principals == ["old@p.iam.gserviceaccount.com", "new@p.iam.gserviceaccount.com"]


def test_hooks_share_one_token(emulator: EmulatorHandle) -> None:
    key = create_service_account(emulator.state)
    first = credentials_for(settings(emulator, keyfile_dict=key))
    second = credentials_for(settings(emulator, keyfile_dict=json.dumps(key)))
    assert first is second
    assert credentials_for(settings(emulator, keyfile_dict={**key, "private_key_id": "other"})) is not first
    results: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: results.append(first.headers())) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({headers["Authorization"] for headers in results}) == 1
    assert len(results) == 12
    assert issued(emulator) == 1


def test_a_token_is_renewed_before_it_expires(emulator: EmulatorHandle) -> None:
    clock = [time.time()]
    credentials = GoogleAuthCredentials(with_key(emulator), now=lambda: clock[0])
    first = credentials.headers()
    clock[0] += 3300
    assert credentials.headers() == first
    clock[0] += 100  # 3400 of 3600 seconds: still good, but not for long
    assert credentials.headers() != first
    assert issued(emulator) == 2


def test_a_token_of_a_few_seconds_is_used_before_it_is_renewed(emulator: EmulatorHandle) -> None:
    emulator.configure(token_lifetime_seconds=8)
    clock = [time.time()]
    credentials = GoogleAuthCredentials(with_key(emulator), now=lambda: clock[0])
    first = credentials.headers()
    clock[0] += 4
    assert credentials.headers() == first
    clock[0] += 3
    assert credentials.headers() != first


def test_an_expired_token_costs_one_renewal(emulator: EmulatorHandle) -> None:
    credentials = credentials_for(with_key(emulator))
    first = credentials.headers()
    token_desk(emulator.state).expire_all()
    assert call(emulator, first) == 401
    credentials.invalidate(first)
    credentials.headers()
    credentials.invalidate(first)  # a second caller that was refused with the old token
    assert call(emulator, credentials.headers()) == 200
    assert issued(emulator) == 2


def test_invalidating_never_waits_for_a_renewal(emulator: EmulatorHandle) -> None:
    credentials = credentials_for(with_key(emulator))
    emulator.fault(match={"path": "/token"}, action="delay", delay=1.5)
    thread = threading.Thread(target=credentials.headers)
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    credentials.invalidate()
    assert time.monotonic() - started < 0.5
    assert thread.is_alive(), "the renewal was under way"
    thread.join()


def test_an_account_is_impersonated(emulator: EmulatorHandle) -> None:
    credentials = credentials_for(with_key(emulator, impersonation_chain=TARGET))
    assert call(emulator, credentials.headers()) == 200
    last = list(token_desk(emulator.state).tokens.values())[-1]
    assert (last.principal, last.delegates) == (TARGET, ())


@pytest.mark.parametrize("chain", [["a@p.example", "b@p.example", TARGET], f"a@p.example, b@p.example,{TARGET}"])
def test_the_last_of_a_chain_is_acted_as_through_the_others(emulator: EmulatorHandle, chain: Any) -> None:
    credentials = credentials_for(with_key(emulator, impersonation_chain=chain))
    first = credentials.headers()
    assert call(emulator, first) == 200
    last = list(token_desk(emulator.state).tokens.values())[-1]
    assert (last.principal, last.delegates) == (TARGET, ("a@p.example", "b@p.example"))
    token_desk(emulator.state).expire_all()
    credentials.invalidate(first)
    assert call(emulator, credentials.headers()) == 200, "the source's token is renewed too"


def test_a_refused_impersonation_names_the_account_and_the_role(emulator: EmulatorHandle) -> None:
    emulator.configure(extra={"impersonation_denied": [TARGET]})
    error = failure(credentials_for(with_key(emulator, impersonation_chain=TARGET)))
    assert isinstance(error, AuthError)
    assert TARGET in str(error)
    assert "Service Account Token Creator" in str(error)


def federation(emulator: EmulatorHandle, tmp_path: Path, subject: str = "subject-token") -> dict[str, Any]:
    path = tmp_path / "subject"
    path.write_text(subject)
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": emulator.url + "/v1/token",
        "credential_source": {"file": str(path)},
    }


@pytest.mark.parametrize("form", ["file", "text", "dict"])
def test_federation_exchanges_a_subject_token(emulator: EmulatorHandle, tmp_path: Path, form: str) -> None:
    config: Any = federation(emulator, tmp_path)
    if form == "file":
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        config = str(path)
    elif form == "text":
        config = json.dumps(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        headers = credentials_for(settings(emulator, credential_config_file=config)).headers()
    assert call(emulator, headers) == 200
    [token] = token_desk(emulator.state).tokens.values()
    assert token.grant == "token-exchange"


def test_a_refused_subject_token_names_the_federation(emulator: EmulatorHandle, tmp_path: Path) -> None:
    config = federation(emulator, tmp_path, "bad-subject")
    error = failure(credentials_for(settings(emulator, credential_config_file=config)))
    assert isinstance(error, AuthError)
    assert "credential_config_file" in str(error)
    assert "bad-subject" not in str(error)


def test_application_default_credentials_are_used_where_none_are_named(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "adc.json"
    path.write_text(json.dumps(create_service_account(emulator.state)))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    assert call(emulator, GoogleAuthCredentials(settings(emulator)).headers()) == 200


def test_missing_application_default_credentials_name_the_ways_out(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    error = failure(GoogleAuthCredentials(settings(emulator)))
    assert isinstance(error, AuthError)
    assert "gcloud auth application-default login" in str(error)
    assert "keyfile_dict" in str(error)


def test_application_default_credentials_that_a_variable_names_are_named(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/does/not/exist.json")
    error = failure(GoogleAuthCredentials(settings(emulator)))
    assert isinstance(error, AuthError)
    assert "/does/not/exist.json (GOOGLE_APPLICATION_CREDENTIALS)" in str(error)
    assert "not found" in str(error)


def test_an_unknown_account_is_an_error_that_names_it(emulator: EmulatorHandle) -> None:
    key = create_service_account(emulator.state, email="gone@p.iam.gserviceaccount.com")
    del token_desk(emulator.state).accounts["gone@p.iam.gserviceaccount.com"]
    error = failure(credentials_for(settings(emulator, keyfile_dict=key)))
    assert isinstance(error, AuthError)
    assert not error.is_transient
    assert "gone@p.iam.gserviceaccount.com" in str(error)
    assert "make a new key" in str(error)


def test_a_key_that_is_no_key_is_an_error_without_the_key(emulator: EmulatorHandle) -> None:
    key = {**create_service_account(emulator.state), "private_key": "-----BEGIN PRIVATE KEY-----\nMIIoops\n"}
    error = failure(credentials_for(settings(emulator, keyfile_dict=key)))
    assert isinstance(error, ConfigurationError)
    assert "MIIoops" not in str(error)
    assert "keyfile_dict" in str(error)


def test_a_file_that_is_missing_is_named(emulator: EmulatorHandle) -> None:
    error = failure(credentials_for(settings(emulator, key_path="/does/not/exist.json")))
    assert isinstance(error, ConfigurationError)
    assert "/does/not/exist.json" in str(error)
    assert "key_path" in str(error)


def test_a_token_endpoint_out_of_reach_is_worth_another_try(emulator: EmulatorHandle) -> None:
    key = create_service_account(emulator.state, token_uri="http://127.0.0.1:1/token")
    error = failure(credentials_for(settings(emulator, keyfile_dict=key)))
    assert isinstance(error, TransportError)
    assert error.is_transient
    assert "127.0.0.1" in str(error), "who could not be reached"
    assert not error.may_have_taken_effect, "no request went to the API"


@pytest.mark.parametrize("uri", ["http://[::1", "oauth2.example", "ftp://127.0.0.1/token"])
def test_a_token_uri_that_is_no_url_is_our_own_error(emulator: EmulatorHandle, tmp_path: Path, uri: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps({**create_service_account(emulator.state), "token_uri": uri}))
    error = failure(credentials_for(settings(emulator, key_path=str(path))))
    assert isinstance(error, ConfigurationError), "no repetition helps"
    assert "token_uri" in str(error)


@pytest.mark.parametrize("body", ["garbage", "html", "empty", "array"])
def test_a_token_reply_that_cannot_be_read_is_worth_another_try(emulator: EmulatorHandle, body: str) -> None:
    emulator.fault(match={"path": "/token"}, status=200, body=body)
    credentials = credentials_for(with_key(emulator))
    error = failure(credentials)
    assert isinstance(error, TransportError), "a task must not fail for good for one bad reply"
    assert not error.may_have_taken_effect, "no request went to the API"
    assert call(emulator, credentials.headers()) == 200


@pytest.mark.usefixtures("stepped")
def test_a_good_token_outlives_trouble_at_the_token_endpoint(emulator: EmulatorHandle) -> None:
    clock = [time.time()]
    credentials = GoogleAuthCredentials(with_key(emulator), now=lambda: clock[0])
    first = credentials.headers()
    emulator.fault(match={"path": "/token"}, status=503, times=None)
    clock[0] += 3400
    assert credentials.headers() == first
    clock[0] += 300
    assert isinstance(failure(credentials), TransportError)


def test_a_redirected_token_request_is_not_followed(emulator: EmulatorHandle) -> None:
    emulator.fault(match={"path": "/token"}, status=307, times=None, headers={"Location": emulator.url + "/elsewhere"})
    failure(credentials_for(with_key(emulator)))
    assert not emulator.journal(path="/elsewhere")
