# SPDX-License-Identifier: Apache-2.0
"""A folder of parts while its writer fails or is killed: its manifest names the old table or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import duckdb
import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError, InputNotFoundError
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.files.paths import open_read
from airflow_provider_gemini_batch.run.outputs import Table
from airflow_provider_gemini_batch.run.parts import parts_in
from tests.run.object_storage import served_s3

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("airflow.sdk.io")

pytestmark = [
    pytest.mark.xdist_group("folder output"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

OLD, NEW = 3, 40
WRITER = """
import sys
import duckdb, s3fs
from airflow.sdk.io import attach
from airflow_provider_gemini_batch.run.outputs import Table
url, place, *parts = sys.argv[1:]
attach("s3", fs=s3fs.S3FileSystem(key="test", secret="test", endpoint_url=url, skip_instance_cache=True))
with duckdb.connect() as engine:
    Table(engine, parts, {"n": "BIGINT"}, ()).write(place, ".", name="part-mine")
"""


@pytest.fixture(scope="module")
def storage():
    with served_s3("lake") as relay:
        yield relay


@pytest.fixture(params=["s3", "local"])
def place(request, tmp_path, storage) -> str:
    return f"s3://lake/{tmp_path.name}" if request.param == "s3" else str(tmp_path / "out")


def made(tmp_path, first: int, count: int) -> list[str]:
    """Write parts of *count* rows each, and return their paths."""
    paths = [str(tmp_path / f"{first}-{number}.parquet") for number in range(3)]
    with duckdb.connect() as engine:
        for number, path in enumerate(paths):
            start = first + number * count
            engine.execute(
                f"COPY (SELECT range AS n FROM range({start}, {start + count})) TO '{path}' (FORMAT parquet)"
            )
    return paths


def write(place: str, parts: list[str]) -> None:
    with duckdb.connect() as engine:
        Table(engine, parts, {"n": "BIGINT"}, ()).write(place, ".", name="part-mine")


def table(place: str, tmp_path) -> list[int]:
    """Return the numbers of a folder as its manifest tells it, in order."""
    found: list[int] = []
    with duckdb.connect() as engine:
        for name in parts_in(place) or []:
            local = tmp_path / f"read-{threading.get_ident()}.parquet"
            with open_read(name) as part:
                local.write_bytes(part.read())
            found += [row[0] for row in engine.execute(f"SELECT n FROM '{local}'").fetchall()]
    return found


@pytest.mark.parametrize("moment", ["part-mine-00001-", "_writer-part-mine", "_manifest.json", "DELETE"])
def test_killed_writer_leaves_the_old_table_or_the_new_one(tmp_path, storage, moment):
    place = f"s3://lake/{tmp_path.name}"
    old, new = made(tmp_path, 0, OLD), made(tmp_path, 1000, NEW)
    write(place, old)
    command = [sys.executable, "-c", WRITER, f"http://127.0.0.1:{storage.port}", place, *new]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(data: bytes) -> None:
        first = data.split(b"\r\n", 1)[0]
        if child.poll() is None and (moment.encode() in first if moment != "DELETE" else b"DELETE" in first):
            os.kill(child.pid, signal.SIGKILL)
            child.wait()

    storage.seen = kill
    try:
        assert child.wait(60) == -signal.SIGKILL
    finally:
        storage.seen = lambda data: None
    after = table(place, tmp_path)
    assert after in (list(range(3 * OLD)), list(range(1000, 1000 + 3 * NEW)))
    assert (after[0] == 1000) == (moment == "DELETE")
    write(place, new)
    assert table(place, tmp_path) == list(range(1000, 1000 + 3 * NEW))
    # Nothing of the dead writer is left for those who read all Parquet files.
    names = Folder(place).names()
    assert [name for name in names if name.endswith(".parquet")] == [
        part.rsplit("/", 1)[1] for part in parts_in(place) or []
    ]
    assert sorted(name for name in names if name.startswith("_")) == ["_manifest.json", "_writer-part-mine.json"]


def test_writer_that_died_with_other_parts_leaves_none_behind(tmp_path, place, monkeypatch):
    from airflow_provider_gemini_batch.run import parts

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    write(place, made(tmp_path, 0, OLD))
    other = made(tmp_path, 500, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            write(place, other)
    assert table(place, tmp_path) == list(range(3 * OLD))
    write(place, made(tmp_path, 1000, NEW))
    assert table(place, tmp_path) == list(range(1000, 1000 + 3 * NEW))
    assert len([name for name in Folder(place).names() if name.endswith(".parquet")]) == 3


def test_reader_sees_the_old_table_or_the_new_one_at_any_moment(tmp_path, place):
    versions = [made(tmp_path, first, OLD) for first in (0, 1000)]
    write(place, versions[0])
    done = threading.Event()

    def keep_writing() -> None:
        for number in range(1, 6):
            write(place, versions[number % 2])
        done.set()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    seen = []
    while not done.is_set():
        # A part that was named and is replaced meanwhile is not there: an error, and never half a table.
        with contextlib.suppress(ConfigurationError, InputNotFoundError, FileNotFoundError):
            seen.append(table(place, tmp_path))
    writer.join()
    assert seen
    assert all(found in (list(range(9)), list(range(1000, 1009))) for found in seen)


def test_same_parts_written_twice_change_nothing(tmp_path, place):
    parts = made(tmp_path, 0, OLD)
    write(place, parts)
    before = Folder(place).names()
    write(place, parts)
    assert Folder(place).names() == before
    assert table(place, tmp_path) == list(range(3 * OLD))
