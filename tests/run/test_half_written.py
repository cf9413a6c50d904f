# SPDX-License-Identifier: Apache-2.0
"""A file whose writer is killed, cut off or out of disk half-way: the old one stays whole, and a retry is right."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.files.folder import Folder, list_files
from airflow_provider_gemini_batch.files.paths import open_read
from airflow_provider_gemini_batch.operators import DownloadResultsOperator
from airflow_provider_gemini_batch.run import plan
from airflow_provider_gemini_batch.run.driver import Run
from airflow_provider_gemini_batch.run.spec import Outputs
from gemini_batch_emulator.pytest_plugin import EmulatorHandle
from gemini_batch_emulator.server import EmulatorServer
from tests.run.world import MODEL, World, client_of
from tests.support.airflow_side import set_connection

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("airflow.sdk.io")
from tests.run.object_storage import attach_s3, served_s3  # noqa: E402

pytestmark = [
    pytest.mark.xdist_group("half written"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

OLD = b"yesterday's\n"
ROWS = 1000
HALF = 30_000
"""Bytes of an output after which it is killed, cut off or full; as many and more would follow."""

FORMS = ["parquet", "jsonl", "csv", "download"]


@pytest.fixture(scope="module")
def storage():
    with served_s3("lake") as relay:
        yield relay


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> Iterator[tuple[World, str]]:
    """A run that has only its output left to write, and the job of a download."""
    with EmulatorServer() as server:
        world = World(EmulatorHandle(server), tmp_path_factory.mktemp("answered"))
        world.emulator.script(mode="at_once")
        chance = random.Random(1)
        # Notes that compress badly, so that each form of output is much longer than half of it.
        source = [{"id": f"k{n}", "word": chance.randbytes(50).hex()} for n in range(ROWS)]
        attempt = Run(world.spec(), world.context(source))
        while not isinstance(step := plan.next_step(attempt.reader.facts(), attempt.spec.policy), plan.WriteOutputs):
            attempt.carry_out(step)
        requests = [{"key": row["id"], "prompt": row["word"]} for row in source]
        yield world, client_of(world.emulator).create_batch(MODEL, inlined_requests=requests).name


@pytest.fixture
def write(answered, tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """Write to a place, as the last step of a run or as the operator that downloads: nothing is asked again."""
    world, job = answered
    set_connection(monkeypatch, world.emulator.connection("gemini"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def write(form: str, place: str) -> None:
        if form == "download":
            manifest: Any = DownloadResultsOperator(task_id="t", job_name=job, output_path=place).execute({})
        else:
            shutil.copytree(world.path("checkpoint"), tmp_path / "checkpoint", dirs_exist_ok=True)
            context = world.context([], checkpoint=Folder(str(tmp_path / "checkpoint"), settle=0.0))
            manifest = Run(replace(world.spec(), outputs=Outputs(place)), context).proceed()
        assert manifest["succeeded"] == ROWS

    return write


def suffix_of(form: str) -> str:
    return "jsonl" if form == "download" else form


def exit_of(work: Callable[[], None], started: Callable[[int], None] = lambda process: None) -> int:
    """Do *work* in a process of its own, and return its exit code."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    started(process)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def strike(how: str) -> None:
    """Let this process fail: ``killed`` or ``full`` half-way into the unfinished file, ``nameless`` with it whole."""

    def hook(event: str, details: tuple[object, ...]) -> None:
        if not details or "/.gemini-batch-" not in str(details[0]):
            return
        if event == "open" and how != "nameless":
            # The system kills whoever writes beyond the limit; a process that ignores this is told of a fault.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if how == "killed" else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))
        if event == "os.rename" and how == "nameless":
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("how", "code"), [("killed", -signal.SIGXFSZ), ("nameless", -signal.SIGKILL), ("full", 1)])
def test_local_output_stopped_half_way_leaves_the_old_one(write, tmp_path, form, how, code):
    place = tmp_path / "out" / f"table.{suffix_of(form)}"
    place.parent.mkdir()
    place.write_bytes(OLD)

    def work() -> None:
        strike(how)
        write(form, str(place))

    assert exit_of(work) == code
    left = [path.stat().st_size for path in place.parent.iterdir() if path != place]
    # A download is stopped while its answers come in, which lie in a file without a name.
    killed = 0 if form == "download" else HALF
    assert left == ([] if how == "full" else [killed]) or (how == "nameless" and left[0] > HALF)
    assert place.read_bytes() == OLD
    assert list_files(str(place.parent)) == [str(place)]  # the unfinished one is no input
    write(form, str(place))
    assert place.stat().st_size > 2 * HALF
    assert list(place.parent.iterdir()) == [place]


def content(place: str) -> bytes:
    with open_read(place) as file:
        return file.read()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("how", "code"), [("cut", 1), ("killed", -signal.SIGKILL), ("full", 1)])
def test_stored_output_stopped_half_way_leaves_the_old_one(write, storage, tmp_path, form, how, code):
    place = f"s3://lake/{tmp_path.name}/table.{suffix_of(form)}"
    with AtomicFile(place) as out:
        out.write(OLD)
    sent = 0

    def work() -> None:
        attach_s3(storage.port)
        if how == "full":
            strike(how)
        write(form, place)

    def started(process: int) -> None:
        def seen(data: bytes) -> None:
            nonlocal sent
            sent += len(data)
            if sent > HALF and how == "killed":
                os.kill(process, signal.SIGKILL)
                storage.cut_after = HALF  # nor does the system send what the process has left in its buffers

        storage.seen = seen

    storage.cut_after = HALF if how == "cut" else None
    try:
        assert exit_of(work, started) == code
    finally:
        storage.cut_after, storage.seen = None, lambda data: None
    assert (sent > HALF) == (how != "full")
    assert content(place) == OLD
    assert list_files(f"s3://lake/{tmp_path.name}") == [place]
    write(form, place)
    assert len(content(place)) > 2 * HALF
    assert list_files(f"s3://lake/{tmp_path.name}") == [place]
    assert list(Path(tempfile.gettempdir()).glob(".gemini-batch-*")) == []


class InParts(s3fs.S3FileSystem):  # type: ignore[name-defined]
    """Sends in parts what the library would only from 100 MB on."""

    async def _put_file(self, lpath: str, rpath: str, **more: Any) -> None:
        await super()._put_file(lpath, rpath, **{**more, "chunksize": 5 << 20})


@pytest.mark.parametrize("how", ["cut", "killed"])
def test_upload_in_parts_stopped_half_way_is_no_output(storage, tmp_path, how):
    place = f"s3://lake/{tmp_path.name}/table.jsonl"
    with AtomicFile(place) as out:
        out.write(OLD)
    sent = 0

    def work() -> None:
        attach_s3(storage.port, InParts)
        with AtomicFile(place, workdir=str(tmp_path)) as out:
            out.write(b"new\n" * (3 << 20))

    def started(process: int) -> None:
        def seen(data: bytes) -> None:
            nonlocal sent
            sent += len(data)
            if sent > 6 << 20 and how == "killed":
                os.kill(process, signal.SIGKILL)

        storage.seen = seen

    storage.cut_after = 3 << 20 if how == "cut" else None
    try:
        assert exit_of(work, started) == (1 if how == "cut" else -signal.SIGKILL)
    finally:
        storage.cut_after, storage.seen = None, lambda data: None
    assert content(place) == OLD
    assert list_files(f"s3://lake/{tmp_path.name}") == [place]
    uploads = attach_s3(storage.port).call_s3("list_multipart_uploads", Bucket="lake").get("Uploads", [])
    # What was cut is given up by us. A process that is killed cannot, and its parts are still no object.
    assert [upload["Key"] for upload in uploads] == ([] if how == "cut" else [place.removeprefix("s3://lake/")])
    work()
    assert content(place) == b"new\n" * (3 << 20)
