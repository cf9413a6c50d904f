# SPDX-License-Identifier: Apache-2.0
"""The API key is seen by the service alone."""

from __future__ import annotations

import asyncio
import json
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.flows import get_job
from airflow_provider_gemini_batch.api.retry import NO_RETRY
from airflow_provider_gemini_batch.compat import TaskDeferred
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import CreateBatchOperator, DownloadResultsOperator
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from tests.support.airflow_side import attempt, rows, set_connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

SECRET = "AIzaSyTotallySecretKey0123456789abcdefgh"


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, {**gemini_batch_emulator.connection("gemini"), "password": SECRET})
    return gemini_batch_emulator


def everything_in(error: BaseException) -> str:
    """Return all text that a chain of exceptions can show."""
    texts = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link is not None:
        texts += [str(link), repr(link), repr(link.args), repr(vars(link))]
        link = link.__cause__ or link.__context__
    return "\n".join(texts)


def test_a_whole_run_shows_the_key_nowhere(
    emulator: EmulatorHandle,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    emulator.script(pending_seconds=0.1, running_seconds=0.1)
    emulator.fault(match={"method": "GET"}, status=503, skip=2, times=1)
    context = attempt()
    create = CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", inlined_requests=rows(2))
    name = create.execute(context)
    sensor = BatchJobSensor(task_id="wait", job_name=name, poke_interval=0.05)
    summary = sensor.execute(context)
    download = DownloadResultsOperator(task_id="get", job_name=name, output_path=str(tmp_path / "out.jsonl"))
    manifest = download.execute(context)
    hook = GeminiBatchHook()
    assert hook.test_connection()[0]
    rendered = [repr(getattr(task, field)) for task in (create, sensor, download) for field in task.template_fields]
    shown = [
        caplog.text,
        *capfd.readouterr(),
        json.dumps(context["ti"].xcoms),
        json.dumps([summary, manifest]),
        *map(repr, (hook, hook.settings, vars(hook), hook.client.transport, vars(hook.client), hook.client.backend)),
        *map(repr, (create, sensor, vars(create))),
        *rendered,
        json.dumps(emulator.journal()),
        (tmp_path / "out.jsonl").read_text(),
    ]
    assert len(emulator.journal()) > 3
    assert hook.settings.backend in repr(hook.settings)
    assert not [text[:200] for text in shown if SECRET in text]


def test_a_trigger_row_holds_no_key(emulator: EmulatorHandle) -> None:
    emulator.script(stuck="RUNNING")
    operator = CreateBatchOperator(
        task_id="create",
        model="gemini-3.5-flash-lite",
        inlined_requests=rows(1),
        wait_for_completion=True,
        deferrable=True,
    )
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(attempt())
    trigger = caught.value.trigger
    stored = [repr(trigger.serialize()), repr(trigger), json.dumps(caught.value.kwargs), repr(vars(trigger))]
    assert not [text for text in stored if SECRET in text]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 400, "message": f"API key not valid: {SECRET}", "reason": "INVALID_ARGUMENT"},
        {"status": 403, "message": f"{SECRET} may not do that"},
        {"status": 500, "message": f"broke with {SECRET}"},
        {"status": 200, "body": {"name": 5, "echo": SECRET}},
        {"status": 200, "body": [SECRET]},
        {"action": "close"},
        {"action": "reset"},
    ],
)
def test_an_error_never_shows_the_key_even_if_the_service_does(
    emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    set_connection(monkeypatch, {**emulator.connection("gemini", max_retries=1), "password": SECRET})
    emulator.fault(match={"method": "GET"}, times=None, **fault)
    hook = GeminiBatchHook()
    assert SECRET not in hook.test_connection()[1]
    flow = lambda: get_job(hook.client.backend, "batches/a", NO_RETRY)  # noqa: E731
    for call in (lambda: hook.run(flow()), lambda: asyncio.run(hook.arun(flow()))):
        try:
            shown = repr(call())
        except GeminiBatchError as error:
            shown = everything_in(error)
        assert SECRET not in shown


def test_an_unreachable_service_is_told_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"max_retries": 1, "timeout": 2}
    set_connection(
        monkeypatch, {"conn_type": "gemini_batch", "host": "http://127.0.0.1:9", "password": SECRET, "extra": extra}
    )
    with pytest.raises(GeminiBatchError) as caught:
        GeminiBatchHook().get_batch("batches/a")
    assert SECRET not in everything_in(caught.value)


def test_a_bad_connection_is_told_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    set_connection(monkeypatch, {"conn_type": "gemini_batch", "host": "ftp://x", "password": SECRET})
    with pytest.raises(GeminiBatchError) as caught:
        GeminiBatchHook().get_batch("batches/a")
    assert SECRET not in everything_in(caught.value)


class _Stranger(BaseHTTPRequestHandler):
    """Another host, which writes down what it is sent."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, str(self.headers)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stranger)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("driver", ["worker", "triggerer"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_take_the_key_to_another_host(
    emulator: EmulatorHandle, stranger: ThreadingHTTPServer, status: int, driver: str
) -> None:
    place = f"http://localhost:{stranger.server_address[1]}/elsewhere"
    fault = emulator.fault(match={"method": "GET"}, status=status, headers={"Location": place}, times=None)
    hook = GeminiBatchHook()
    flow = get_job(hook.client.backend, "batches/a", NO_RETRY)
    run = hook.run if driver == "worker" else lambda flow: asyncio.run(hook.arun(flow))
    with pytest.raises(GeminiBatchError):
        run(flow)
    assert fault.fired
    assert SECRET not in str(stranger.seen)  # type: ignore[attr-defined]


def test_a_redirected_download_or_create_does_not_take_the_key_along(
    emulator: EmulatorHandle, stranger: ThreadingHTTPServer, tmp_path: Path
) -> None:
    place = f"http://localhost:{stranger.server_address[1]}/elsewhere"
    emulator.fault(match={"path": ":download|:batchGenerate"}, status=307, headers={"Location": place}, times=None)
    hook = GeminiBatchHook()
    with pytest.raises(GeminiBatchError):
        hook.download_file("files/a", tmp_path / "out")
    with pytest.raises(GeminiBatchError):
        hook.create_batch("gemini-3.5-flash-lite", inlined_requests=rows(1))
    assert SECRET not in str(stranger.seen)  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
