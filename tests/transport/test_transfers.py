# SPDX-License-Identifier: Apache-2.0
"""Uploads and downloads of tens of megabytes through the hook, on both backends: cut on their way, never changed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.api.developer import files as developer
from airflow_provider_gemini_batch.api.vertex import storage
from airflow_provider_gemini_batch.errors import GeminiBatchError, InputChangedError, TransportError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.transport.blocking import BlockingTransport
from airflow_provider_gemini_batch.transport.credentials import credentials_for
from tests.support.airflow_side import set_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MIB = 1 << 20
SIZE = 40 * MIB + 12_345
UPLOAD = {"gemini": {"method": "POST", "path": "^/upload/", "query": "upload_id"}, "vertex_ai": {"method": "PUT"}}
DOWNLOAD = {"gemini": {"path": ":download$"}, "vertex_ai": {"query": "alt=media"}}


@pytest.fixture(params=["gemini", "vertex_ai"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, backend: str, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection(backend))
    return gemini_batch_emulator


@pytest.fixture
def hook(emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> GeminiBatchHook:
    """A hook that does not sleep between its tries, and sends the payload in three chunks."""
    monkeypatch.setattr(developer, "UPLOAD_CHUNK_BYTES", 16 * MIB)
    monkeypatch.setattr(storage, "CHUNK_BYTES", 16 * MIB)
    hurried = GeminiBatchHook()
    credentials = credentials_for(hurried.settings)
    hurried.client.transport = BlockingTransport(hurried.settings, credentials, sleep=lambda seconds: None)
    return hurried


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("payload") / "payload.jsonl"
    path.write_bytes(random.Random(3).randbytes(SIZE))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_what_arrived(hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, name: str) -> str:
    if backend == "gemini":
        sha256 = hook.get_file(name).sha256
        assert sha256 is not None
        return sha256
    from gemini_batch_emulator.storage import object_store

    bucket, _, place = name.removeprefix("gs://").partition("/")
    stored = object_store(emulator.state).get(bucket, place)
    assert stored is not None
    return hashlib.sha256(stored.path.read_bytes()).hexdigest()


def overwrite(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(b"x")


@contextmanager
def meanwhile(emulator: EmulatorHandle, match: dict[str, str], act: Callable[[], None]) -> Iterator[None]:
    """Do something while the next matching request is under way."""
    emulator.fault(match=match, action="delay", delay=0.5)

    def wait_and_act() -> None:
        until = time.time() + 30
        while not emulator.journal(path="upload") and time.time() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        act()

    acting = threading.Thread(target=wait_and_act)
    acting.start()
    try:
        yield
    finally:
        acting.join()


@contextmanager
def edited_meanwhile(emulator: EmulatorHandle, backend: str, folder: Path) -> Iterator[Path]:
    """Make a file whose last byte is changed while its upload is under way."""
    path = folder / "edited.jsonl"
    path.write_bytes(bytes(SIZE))
    with meanwhile(emulator, UPLOAD[backend], lambda: overwrite(path, SIZE - 1)):
        yield path


CUTS: dict[str, list[dict[str, Any]]] = {
    "in the middle of three chunks": [
        {"action": "cut_upload", "bytes": 1},
        {"action": "cut_upload", "bytes": 5 * MIB + 17},
        {"action": "cut_upload", "bytes": 7 * MIB},
    ],
    "three times in the first chunk": [{"action": "cut_upload", "bytes": count} for count in (MIB, 2 * MIB, 3)],
    "after chunks whose answers are lost": [
        {"action": "close", "when": "after"},
        {"action": "reset", "when": "after", "skip": 1},
        {"action": "cut_response", "bytes": 3, "when": "after", "skip": 1},
    ],
    "by the service's own trouble": [
        {"status": 503},
        {"status": 500, "when": "after", "skip": 1},
        {"status": 429, "retry_after": 0, "skip": 1},
    ],
    "and the question how much arrived, too": [{"action": "cut_upload", "bytes": 4 * MIB}, {"action": "close"},
                                                {"status": 502}],
}  # fmt: skip


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_an_upload_cut_three_times_ends_in_identical_bytes(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, payload: Path, cuts: list[dict[str, Any]]
) -> None:
    faults = [emulator.fault(match=UPLOAD[backend], **cut) for cut in cuts]
    remote = hook.upload_file(payload, display_name="payload")
    assert [fault.fired for fault in faults] == [1, 1, 1]
    assert remote.size == SIZE
    assert digest_of_what_arrived(hook, emulator, backend, remote.name) == digest(payload)
    sent = sum(entry["request_bytes"] for entry in emulator.journal(path="upload"))
    assert sent < 2.5 * SIZE, "a cut upload goes on where it was cut"


def downloadable(hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, payload: Path) -> str:
    """Return the name of a file that may be downloaded: on the Developer API a job's result file alone."""
    if backend == "vertex_ai":
        return hook.upload_file(payload).name
    emulator.script(mode="at_once", result_bytes=SIZE)
    source = payload.with_name("rows.jsonl")
    source.write_text('{"key": "a", "prompt": "x"}\n')
    output = hook.get_batch(hook.create_batch("gemini-3.5-flash-lite", input_path=str(source)).name).output
    assert output is not None
    assert output.kind == "file"
    return output.place


DOWNLOAD_CUTS: dict[str, list[dict[str, Any]]] = {
    "at three places": [{"action": "cut_response", "bytes": count} for count in (MIB, 9 * MIB + 5, 20 * MIB)],
    "three times at one place": [{"action": "cut_response", "bytes": 3 * MIB + 1}] + [{"action": "close"}] * 2,
    "by the service's own trouble": [{"action": "cut_response", "bytes": 11 * MIB}, {"status": 503}, {"status": 500}],
    "before a byte and in the first": [{"action": "close"}, {"action": "cut_response", "bytes": 1},
                                        {"action": "reset"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "ranges"), [("gemini", True), ("gemini", False), ("vertex_ai", True)], indirect=["backend"]
)
@pytest.mark.parametrize("cuts", DOWNLOAD_CUTS.values(), ids=DOWNLOAD_CUTS)
def test_a_download_cut_three_times_ends_in_identical_bytes(
    hook: GeminiBatchHook,
    emulator: EmulatorHandle,
    backend: str,
    payload: Path,
    tmp_path: Path,
    cuts: list[dict[str, Any]],
    ranges: bool,
) -> None:
    emulator.configure(download_ranges=ranges)
    name = downloadable(hook, emulator, backend, payload)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    hook.download_file(name, whole)
    faults = [emulator.fault(match=DOWNLOAD[backend], **rule) for rule in cuts]
    hook.download_file(name, cut)
    assert [fault.fired for fault in faults] == [1, 1, 1]
    assert whole.stat().st_size >= SIZE
    assert digest(cut) == digest(whole)
    if backend == "vertex_ai":
        assert digest(whole) == digest(payload)


def test_a_download_that_never_gets_on_ends_in_an_error_and_no_file(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, payload: Path, tmp_path: Path
) -> None:
    name = downloadable(hook, emulator, backend, payload)
    emulator.fault(match=DOWNLOAD[backend], action="cut_response", bytes=2 * MIB, times=1)
    broken = emulator.fault(match=DOWNLOAD[backend], action="close", times=None)
    with pytest.raises(GeminiBatchError):
        hook.download_file(name, tmp_path / "out")
    assert broken.fired == 7, "eight tries, of which the first brought something"
    assert list(tmp_path.iterdir()) == []


class _Terminated(BaseException):
    """What Airflow raises into a task that is ended, wherever it is."""


@contextmanager
def ended_soon() -> Iterator[None]:
    """End what is done inside as Airflow ends a task: by an exception out of a signal's handler."""

    def end(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_task_that_is_ended_does_not_sleep_on(
    hook: GeminiBatchHook, emulator: EmulatorHandle, payload: Path, tmp_path: Path, backend: str
) -> None:
    uploaded = hook.upload_file(payload)
    emulator.fault(match=DOWNLOAD[backend], times=None, status=503, retry_after=30)
    begin = time.monotonic()
    with pytest.raises(_Terminated), ended_soon():
        GeminiBatchHook().download_file(uploaded.name, tmp_path / "out")
    assert time.monotonic() - begin < 5
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name or path.suffix == ".part"] == []


def test_an_upload_that_never_gets_on_ends_in_an_error(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, payload: Path
) -> None:
    broken = emulator.fault(match=UPLOAD[backend], action="close", times=None)
    with pytest.raises(GeminiBatchError):
        hook.upload_file(payload)
    assert 8 <= broken.fired <= 100
    assert hook.list_files().files == ()


def test_rows_are_uploaded_and_landed_through_cuts(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, tmp_path: Path
) -> None:
    """From the rows to the landed answers, with every transfer cut on its way."""
    from airflow_provider_gemini_batch.landing.join import land

    emulator.script(mode="at_once")
    source = tmp_path / "in.jsonl"
    long = "x" * 2000
    source.write_text("".join(f'{{"key": "k{n}", "prompt": "{n} {long}"}}\n' for n in range(2000)))
    up = [emulator.fault(match=UPLOAD[backend], action="cut_upload", bytes=count) for count in (MIB, MIB + 1, 3)]
    job = hook.create_batch("gemini-3.5-flash-lite", input_path=str(source))
    down = [emulator.fault(match=DOWNLOAD[backend], action="cut_response", bytes=count) for count in (9, 70_001, 3)]
    manifest = land(hook.result_lines(job), tmp_path / "out.jsonl", input_path=source)
    assert [fault.fired for fault in (*up, *down)] == [1] * 6
    assert (manifest.total, manifest.succeeded) == (2000, 2000)


# --- sessions that end, and files that change -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "gone"),
    [
        ("gemini", {"status": 404}),
        ("gemini", {"status": 410}),
        ("gemini", {"status": 200, "headers": {"x-goog-upload-status": "cancelled"}, "body": {}}),
        ("gemini", {"status": 401}),
        ("vertex_ai", {"status": 404}),
        ("vertex_ai", {"status": 410}),
    ],
    indirect=["backend"],
)
def test_an_upload_whose_session_is_gone_begins_anew(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, payload: Path, gone: dict[str, Any]
) -> None:
    fault = emulator.fault(match=UPLOAD[backend], skip=1, **gone)
    remote = hook.upload_file(payload)
    assert fault.fired == 1
    assert digest_of_what_arrived(hook, emulator, backend, remote.name) == digest(payload)


def test_an_upload_whose_sessions_are_always_dropped_ends(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, payload: Path
) -> None:
    emulator.fault(match=UPLOAD[backend], times=None, status=404)
    with pytest.raises(TransportError, match="dropped the upload"):
        hook.upload_file(payload)


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, tmp_path: Path
) -> None:
    path = tmp_path / "growing.jsonl"
    path.write_bytes(bytes(SIZE))
    # Somebody begins the file anew.
    shrink = meanwhile(emulator, UPLOAD[backend], lambda: os.truncate(path, MIB))
    with shrink, pytest.raises(InputChangedError, match=r"growing\.jsonl changed while it was read"):
        hook.upload_file(path)


@pytest.mark.parametrize("backend", ["vertex_ai"], indirect=True)
def test_a_file_that_is_changed_in_place_while_it_is_sent_leaves_nothing_under_its_old_digest(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, tmp_path: Path
) -> None:
    with (
        edited_meanwhile(emulator, backend, tmp_path) as path,
        pytest.raises(InputChangedError, match="changed while it was read"),
    ):
        hook.upload_file(path)
    assert hook.list_files().files == ()
    remote = hook.upload_file(path)
    assert digest_of_what_arrived(hook, emulator, backend, remote.name) == digest(path)


@pytest.mark.parametrize("backend", ["gemini"], indirect=True)
def test_a_file_that_is_changed_before_its_bytes_are_read_is_sent_as_it_is_now(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, tmp_path: Path
) -> None:
    """The service tells the digest of what has arrived: it is that of the file."""
    with edited_meanwhile(emulator, backend, tmp_path) as path:
        remote = hook.upload_file(path)
    assert digest_of_what_arrived(hook, emulator, backend, remote.name) == digest(path)


def test_a_file_that_is_merely_touched_while_it_is_sent_is_no_change(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, payload: Path
) -> None:
    with meanwhile(emulator, UPLOAD[backend], lambda: os.utime(payload)):
        remote = hook.upload_file(payload)
    assert digest_of_what_arrived(hook, emulator, backend, remote.name) == digest(payload)


@pytest.mark.parametrize("backend", ["vertex_ai"], indirect=True)
def test_a_changed_file_whose_remains_cannot_be_deleted_is_told_as_changed(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, tmp_path: Path
) -> None:
    refusal = emulator.fault(match={"method": "DELETE"}, status=403, times=None)
    with (
        edited_meanwhile(emulator, backend, tmp_path) as path,
        pytest.raises(InputChangedError, match=r"edited\.jsonl changed"),
    ):
        hook.upload_file(path)
    assert refusal.fired


@pytest.mark.parametrize("backend", ["vertex_ai"], indirect=True)
def test_an_object_that_lay_there_is_not_deleted_when_the_file_is_written_to(
    hook: GeminiBatchHook, emulator: EmulatorHandle, backend: str, tmp_path: Path
) -> None:
    """Others may be reading it, and it has the bytes its name says."""
    path = tmp_path / "again.jsonl"
    path.write_bytes(bytes(MIB))
    first = hook.upload_file(path)
    emulator.state.journal.clear()
    with meanwhile(emulator, {"method": "POST", "path": "^/upload/"}, lambda: os.utime(path)):
        assert hook.upload_file(path).name == first.name
    assert digest_of_what_arrived(hook, emulator, backend, first.name) == digest(path)


@pytest.mark.parametrize("backend", ["gemini"], indirect=True)
def test_a_size_that_cannot_be_is_no_answer(hook: GeminiBatchHook, emulator: EmulatorHandle, payload: Path) -> None:
    match = {"path": "^/upload/", "query": "upload_id"}
    emulator.fault(match=match, action="close", skip=1)
    lie = emulator.fault(
        match=match, status=200, body={}, times=2,
        headers={"x-goog-upload-status": "active", "x-goog-upload-size-received": "-5"},
    )  # fmt: skip
    remote = hook.upload_file(payload)
    assert lie.fired == 2
    assert remote.sha256 == digest(payload)
