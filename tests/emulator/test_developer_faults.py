# SPDX-License-Identifier: Apache-2.0
"""Faults, journal, clock and the control routes, as a client and a person with curl meet them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import requests

from gemini_batch_emulator.limitations import LIMITATIONS
from gemini_batch_emulator.server import EmulatorServer

from .conftest import Caller, generate_line

CREATE = {"method": "POST", "path": ":batchGenerateContent$"}


def control(caller: Caller, method: str, path: str, body: Any = None, expect: int = 200) -> dict[str, Any]:
    """Use a control route as curl would: without credentials."""
    reply = requests.request(method, f"{caller.emulator.url}/_emulator/{path}", json=body, timeout=10)
    assert reply.status_code == expect, reply.text
    return dict(reply.json())


# Replies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_an_error_comes_before_or_after_the_job_exists(one: Caller, status: int, when: str) -> None:
    one.emulator.fault(match=CREATE, status=status, when=when)
    assert one.inline("a", expect=status)["error"]["code"] == status
    assert one.emulator.ledger()["totals"]["created"] == (1 if when == "after" else 0)
    one.inline("b")


def test_a_429_may_say_when_to_come_back(one: Caller) -> None:
    one.emulator.fault(status=429, retry_after=37.5)
    one.emulator.fault(status=429)
    with_hint = one.call("GET", "batches", expect=429).json()["error"]
    assert with_hint["status"] == "RESOURCE_EXHAUSTED"
    assert with_hint["details"] == [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.5s"}]
    assert "details" not in one.call("GET", "batches", expect=429).json()["error"]


@pytest.mark.parametrize(
    ("body", "check"),
    [
        ("html", lambda content: content.startswith(b"<!DOCTYPE html>")),
        ("array", lambda content: json.loads(content)[0]["error"]["code"] == 500),
        ("empty", lambda content: content == b""),
        ("garbage", lambda content: b"not json" in content),
        ("truncated", lambda content: content.startswith(b"{") and not content.endswith(b"}")),
        ({"own": 1}, lambda content: json.loads(content) == {"own": 1}),
    ],
)
def test_replies_can_be_anything(one: Caller, body: Any, check: Any) -> None:
    one.emulator.fault(status=500, body=body)
    assert check(one.call("GET", "batches", expect=500).content)


def test_a_200_can_be_garbage_although_the_job_was_made(one: Caller) -> None:
    one.emulator.fault(match=CREATE, status=200, body="garbage", when="after")
    with pytest.raises(requests.JSONDecodeError):
        one.inline("a")
    assert one.emulator.ledger()["totals"]["created"] == 1


# Connections --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "created"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize(("action", "text"), [("close", "RemoteDisconnected"), ("reset", "ConnectionResetError")])
def test_a_connection_ends_for_real(one: Caller, action: str, text: str, when: str, created: int) -> None:
    one.emulator.fault(match=CREATE, action=action, when=when)
    with pytest.raises(requests.ConnectionError, match=text):
        one.inline("a")
    assert one.emulator.ledger()["totals"]["created"] == created
    one.inline("b")


def test_a_download_is_cut_after_so_many_bytes(one: Caller) -> None:
    one.emulator.script(result_bytes=3_000_000)
    file = one.upload([generate_line("a")])
    job = one.ended(one.create(file["name"]))
    path = f"{job['response']['responsesFile']}:download?alt=media"
    one.emulator.fault(match={"path": ":download$"}, action="cut_response", bytes=1_234_567)
    reply = one.call("GET", path, stream=True)
    chunks: list[bytes] = []
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        chunks.extend(reply.iter_content(1000))
    received = b"".join(chunks)
    whole = one.call("GET", path).content
    assert 1_230_000 < len(received) <= 1_234_567
    assert whole.startswith(received)


def test_a_delay_takes_real_time(one: Caller) -> None:
    one.emulator.fault(action="delay", delay=0.3)
    begun = time.monotonic()
    one.call("GET", "batches")
    assert time.monotonic() - begun >= 0.3


def test_a_call_whose_reply_is_held_back_has_taken_effect(one: Caller) -> None:
    one.emulator.fault(match={"method": "POST"}, action="delay", when="after", delay=5)
    body = {"batch": {"displayName": "held", "inputConfig": {"requests": {"requests": [
        {"request": {"contents": [{"parts": [{"text": "a"}]}]}}]}}}}  # fmt: skip
    with pytest.raises(requests.Timeout):
        one.call("POST", "models/gemini-3.5-flash-lite:batchGenerateContent", json=body, timeout=0.5)
    assert one.emulator.ledger()["totals"]["created"] == 1


# Matching -----------------------------------------------------------------------------------------------------------


def test_rules_count_skip_and_end(one: Caller) -> None:
    rule = one.emulator.fault(match={"path": "/batches$"}, skip=1, times=2)
    statuses = [one.call("GET", "batches", expect=None).status_code for _ in range(5)]
    assert statuses == [200, 503, 503, 200, 200]
    assert rule.fired == 2


def test_a_rule_can_read_body_and_query(one: Caller) -> None:
    one.emulator.fault(match={"body": "magic word"}, times=None)
    one.emulator.fault(match={"query": "pageSize=7"}, status=500, times=None)
    one.inline("plain")
    one.inline("the magic word", expect=503)
    one.call("GET", "batches?pageSize=7", expect=500)
    one.call("GET", "batches?pageSize=8")


def test_a_share_draws_the_same_for_the_same_seed(one: Caller) -> None:
    def statuses(seed: int) -> list[int]:
        one.emulator.clear_faults()
        one.emulator.fault(share=0.5, seed=seed, times=None)
        return [one.call("GET", "batches", expect=None).status_code for _ in range(30)]

    first, again, other = statuses(1), statuses(1), statuses(2)
    assert first == again != other
    assert 5 < first.count(503) < 25


# Control routes -----------------------------------------------------------------------------------------------------


def test_everything_can_be_steered_over_http(one: Caller) -> None:
    assert control(one, "GET", "health")["status"] == "ok"
    assert control(one, "PATCH", "config", {"script": {"mode": "at_once"}, "pretty": True})["pretty"] is True
    script = {"match": {"model": "3[.]8"}, "script": {"end": {"state": "FAILED", "code": 9}}, "times": None}
    assert len(control(one, "POST", "jobs/script", script)["scripts"]) == 1
    job = one.get(one.inline("a", model="gemini-3.8-flash"))
    assert job["error"]["code"] == 9
    assert one.call("GET", "batches").text.startswith("{\n  ")
    rules = control(one, "POST", "faults", [{"status": 500}, {"status": 501}])["faults"]
    assert [rule["status"] for rule in rules] == [500, 501]
    assert control(one, "DELETE", "faults") == {"faults": []}
    before = control(one, "POST", "clock", {})["now"]
    assert control(one, "POST", "clock", {"advance": 3600})["now"] >= before + 3600
    assert control(one, "POST", "clock", {"set": 1_000_000_000})["now"] == 1_000_000_000
    assert control(one, "GET", "ledger")["totals"]["created"] == 1
    seeded = control(one, "POST", "seed_jobs", {"count": 3, "state": "RUNNING", "backend": "vertex_ai"})
    assert seeded["count"] == 3
    failing = {"match": {"backend": "vertex_ai"}, "count": 1, "state": "FAILED", "message": "No luck."}
    assert control(one, "POST", "finish_jobs", failing)["count"] == 1
    assert control(one, "POST", "finish_jobs", {"match": {"backend": "vertex_ai"}})["count"] == 2
    states = [entry["state"] for entry in control(one, "GET", "ledger")["jobs"]]
    assert states == ["FAILED", "FAILED", "SUCCEEDED", "SUCCEEDED"]
    control(one, "POST", "reset")
    assert control(one, "GET", "ledger")["totals"]["created"] == 0
    assert control(one, "GET", "config")["pretty"] is False


@pytest.mark.parametrize(
    ("method", "path", "body", "text"),
    [
        ("PATCH", "config", {"spede": 1}, "spede"),
        ("PATCH", "config", {"script": {"mode": "never"}}, "never"),
        ("POST", "faults", {"action": "explode"}, "explode"),
        ("POST", "faults", {"match": {"host": "x"}}, "host"),
        ("POST", "faults", {"match": {"path": "("}}, "unterminated"),
        ("POST", "jobs/script", {"script": {"rows": [{"outcome": "odd"}]}}, "odd"),
        ("POST", "jobs/script", {"script": {}, "match": {"colour": "x"}}, "colour"),
        ("POST", "jobs/script", {}, "script"),
        ("POST", "clock", {"advance": "soon"}, "soon"),
        ("POST", "seed_jobs", {"number": 3}, "number"),
        ("POST", "seed_jobs", {"backend": "azure"}, "azure"),
        ("GET", "journal?path=(", None, "regular expression"),
    ],
)
def test_control_mistakes_are_named(one: Caller, method: str, path: str, body: Any, text: str) -> None:
    assert text in control(one, method, path, body, expect=400)["error"]["message"]


def test_the_journal_shows_requests_connections_and_no_secret(one: Caller) -> None:
    one.emulator.fault(match={"query": "pageSize=2"}, status=503)
    one.call("GET", "batches?key=very-secret&pageSize=1")
    one.call("GET", "batches?pageSize=2", expect=503)
    requests.get(f"{one.emulator.url}/v1/batches", headers={"x-goog-api-key": "k"}, timeout=10)
    seen = control(one, "GET", "journal?path=batches&method=GET")["requests"]
    assert [entry["status"] for entry in seen] == [200, 503, 200]
    assert [entry["fault"] for entry in seen] == ["", "reply", ""]
    assert "very-secret" not in json.dumps(seen)
    assert "key=***" in seen[0]["query"]
    assert seen[0]["connection"] == seen[1]["connection"] != seen[2]["connection"]
    assert seen[0]["response_bytes"] == 2


# Server -------------------------------------------------------------------------------------------------------------


def test_emulated_time_runs_as_fast_as_told(one: Caller) -> None:
    one.emulator.configure(speed=1000)
    one.emulator.script(pending_seconds=50, running_seconds=50)
    job = one.inline("a")
    deadline = time.monotonic() + 10
    while "done" not in one.get(job) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert one.get(job)["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"


def test_a_server_starts_and_stops_quickly_and_frees_its_files() -> None:
    begun = time.monotonic()
    with EmulatorServer() as server:
        directory = server.state.data_dir
        keep = requests.Session()
        assert keep.get(f"{server.url}/_emulator/health", timeout=10).status_code == 200
        stopping = time.monotonic()
    keep.close()
    assert time.monotonic() - stopping < 2
    assert stopping - begun < 5
    assert not directory.exists()


def test_a_taken_port_is_an_error_and_not_a_hang() -> None:
    with EmulatorServer() as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            EmulatorServer(port=port).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_listens_and_stops_when_told(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "airflow_provider_gemini_batch.emulator", "--port", "0", "--speed", "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().rpartition(" ")[2]
        assert requests.get(f"{url}/_emulator/config", timeout=10).json()["speed"] == 10
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_help_says_what_the_emulator_does_not_do() -> None:
    command = [sys.executable, "-m", "airflow_provider_gemini_batch.emulator", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert "No webhooks" in LIMITATIONS
    assert LIMITATIONS.strip().splitlines()[-1] in text
