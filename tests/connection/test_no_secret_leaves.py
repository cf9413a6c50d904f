# SPDX-License-Identifier: Apache-2.0
"""No key leaves with an error: not in its text, not in a log, not in anything its frames reach."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from airflow_provider_gemini_batch.connection.members import without_secrets
from airflow_provider_gemini_batch.connection.reading import read_fields
from airflow_provider_gemini_batch.connection.settings import Secret
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.transport.credentials import without_key
from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger
from tests.support.frames import reached_from

KEY = "AIzaSyMade-Up_0123456789abcdefghijklmno"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIMadeUpButSecret\n-----END PRIVATE KEY-----\n"
ACCOUNT = {"type": "service_account", "client_email": "a@b.example", "private_key": PEM}

CONNECTIONS = {
    "an underscore in the scheme": f"gemini_batch://:{KEY}@/",
    "an underscore and a host": f"gemini_batch://:{KEY}@generativelanguage.googleapis.com/?backend=gemini",
    "a bare key": KEY,
    "a key and its colon": f":{KEY}@",
    "no slashes": f"gemini_batch:{KEY}",
    "a key where the port is": f"gemini-batch://:{KEY}",
    "a key where the host is": f"gemini-batch://{KEY}",
    "a key where the user is": f"gemini-batch://{KEY}@/",
    "a key with a slash": f"gemini-batch://:{KEY}/x@/",
    "a key as type": f"{KEY.replace('_', '-')}://host",
    "another type": f"https://:{KEY}@host/",
    "a broken URL": f"gemini-batch://:{KEY}@[::1/",
    "broken JSON": f'{{"conn_type": "gemini_batch", "password": "{KEY}"',
    "an unknown member": json.dumps({"conn_type": "gemini_batch", "pasword": KEY}),
    "a key inside an object": json.dumps({"conn_type": "gemini_batch", "password": {"key": KEY}}),
    "an extra that is a key": json.dumps({"conn_type": "gemini_batch", "password": "", "extra": KEY}),
    "an extra that is broken": json.dumps({"conn_type": "gemini_batch", "password": KEY, "extra": f'{{"a": "{KEY}"'}),
    "a key as a timeout": json.dumps({"conn_type": "gemini_batch", "password": "k", "extra": {"timeout": KEY}}),
    "a key as a backend": json.dumps({"conn_type": "gemini_batch", "password": KEY, "extra": {"backend": KEY}}),
    "a key as a project": json.dumps({"conn_type": "gemini_batch", "extra": {"project": f"{KEY} x"}}),
    "a key in a URL": json.dumps(
        {"conn_type": "gemini_batch", "password": "k", "host": f"https://h.example/?key={KEY}"}
    ),
    "a key's account": json.dumps({"conn_type": "gemini_batch", "extra": {"project": "p-1", "keyfile_dict": ACCOUNT}}),
    "a key file twice": json.dumps({"conn_type": "gemini_batch", "extra": {"keyfile_dict": PEM, "project": PEM}}),
}
SECRETS = (KEY, KEY.lower(), KEY[1:], KEY[1:].lower(), "MIIMadeUpButSecret")


def is_clean(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


@pytest.fixture(params=CONNECTIONS)
def connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AIRFLOW_CONN_GEMINI_BATCH_DEFAULT", CONNECTIONS[request.param])
    return str(request.param)


@pytest.mark.usefixtures("connection")
def test_no_error_reaches_a_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="airflow_provider_gemini_batch")
    with pytest.raises(Exception, match=r"onnection|conn_id") as caught:
        GeminiBatchHook().client.get_batch("batches/a")
    assert is_clean(str(caught.value))
    assert [place for place, text in reached_from(caught.value) if not is_clean(text)] == []
    assert is_clean(caplog.text)


@pytest.mark.usefixtures("connection")
def test_no_answer_of_the_test_button_shows_a_key() -> None:
    ok, message = GeminiBatchHook().test_connection()
    assert (ok, is_clean(message)) == (False, True)


@pytest.mark.usefixtures("connection")
def test_no_event_of_a_trigger_shows_a_key(caplog: pytest.LogCaptureFixture) -> None:
    async def first() -> Any:
        return await anext(BatchJobTrigger("batches/a", deadline=0.0).run())

    assert is_clean(json.dumps(asyncio.run(first()).payload))
    assert is_clean(caplog.text)


def test_a_secret_is_kept_where_no_walk_finds_it() -> None:
    secret = Secret(KEY)
    held = [getattr(secret, name) for name in Secret.__slots__]
    assert all(KEY.encode() not in each for each in held)
    assert secret.reveal() == KEY
    assert Secret("\ud800").reveal() == "\ud800"


@pytest.mark.parametrize("conn_type", ["", "aizasymade-up-0123456789abcdefghijklmno", "gemini batch"])
def test_nothing_of_a_connection_that_was_not_parsed_is_shown(conn_type: str) -> None:
    words = ("host-word", "schema-word", "login-word", "password-word", "extra-word")
    host, schema, login, password, extra = words
    reading = read_fields("c", conn_type, host, schema, login, password, "9", {"project": extra}, None)
    assert reading.settings is None
    assert not [word for word in (*words, "aizasy") if word in reading.problem]
    assert "gemini-batch://:KEY@/" in reading.problem


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("no server at correcthorsebattery", ["CorrectHorseBattery"]),  # a host loses its capitals
        ("tried CorrectHorseBattery", ["Correct", "CorrectHorseBattery"]),
    ],
)
def test_a_secret_is_blotted_out_whole_in_any_case(text: str, secrets: list[str]) -> None:
    shown = without_secrets(text, secrets).lower()
    assert "***" in shown
    assert not any(part in shown for part in ("correct", "horse", "battery"))


PROXIES = {
    "that is no URL": ("HTTP_PROXY", f"http://user:{KEY}@bad host:xx"),
    "of a missing library": ("ALL_PROXY", f"socks5://user:{KEY}@127.0.0.1:9"),
}


@pytest.mark.parametrize("proxy", PROXIES)
def test_no_error_reaches_the_password_of_a_proxy(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(*PROXIES[proxy])
    given = {"conn_type": "gemini_batch", "password": "k", "host": "http://198.51.100.7"}
    given_json = json.dumps({**given, "extra": {"allow_http": True, "max_retries": 1}})
    monkeypatch.setenv("AIRFLOW_CONN_GEMINI_BATCH_DEFAULT", given_json)
    with pytest.raises(GeminiBatchError) as caught:
        GeminiBatchHook().client.get_batch("batches/a")
    assert is_clean(str(caught.value))
    assert [place for place, text in reached_from(caught.value) if not is_clean(text)] == []


ODD_KEY = 'key/with+odd=chars%40#?&"x'


@pytest.mark.parametrize("header", ["x-goog-api-key", "authorization", "Authorization"])
@pytest.mark.parametrize("written", [str, json.dumps, quote, partial(quote, safe="")])
def test_a_reply_shows_no_credential_however_it_is_written(header: str, written: Any) -> None:
    sent = {header: f"Bearer {ODD_KEY}" if header.lower() == "authorization" else ODD_KEY}
    body = without_key(f"refused: {written(ODD_KEY)}.".encode(), sent).decode()
    assert body.replace('"', "") == "refused: ***."
