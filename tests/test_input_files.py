# SPDX-License-Identifier: Apache-2.0
"""Input files: sent as they are where no row has to be changed, copied where one has, and never removed."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from airflow_provider_gemini_batch.api.rows import RowSettings, normalise_blocks, normalise_rows
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import UploadFileOperator
from airflow_provider_gemini_batch.spool import Original, SpoolFile, open_read, write_input
from tests.airflow_side import set_connection

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.emulator.pytest_plugin import EmulatorHandle

SETTINGS = RowSettings(model="gemini-2.5-flash")
ROW = b'{"key": "%d", "request": {"contents": [{"role": "user", "parts": [{"text": "%s"}]}]}}\n'
LINES = [ROW % (number, b"text " * 60) for number in range(3000)]
SHORT = b'{"key": "short", "prompt": "x"}\n'
SNAKE = b'{"key": "snake", "request": {"contents": [{"parts": [{"text": "x"}]}], "generation_config": {"top_k": 1}}}\n'


@contextmanager
def written(path: Path, folder: Path) -> Iterator[SpoolFile]:
    with open_read(path) as stream:
        original = Original(str(path), stream)
        with write_input(normalise_blocks(stream, SETTINGS), str(folder), original=original) as spooled:
            yield spooled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_a_file_in_wire_form_is_not_copied_and_stays(path: Path, folder: Path) -> None:
    path.write_bytes(b"".join(LINES))
    with written(path, folder) as spooled:
        assert spooled.path == str(path)
        assert (spooled.rows, spooled.size) == (3000, path.stat().st_size)
        assert spooled.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert spooled.read(12_345, 700_000) == path.read_bytes()[12_345:712_345]
    assert path.read_bytes() == b"".join(LINES)
    assert not folder.exists()


@pytest.mark.parametrize(
    "lines",
    [
        [SHORT, *LINES], [*LINES, SHORT], [*LINES[:1500], SNAKE, *LINES[1500:]], [*LINES[:1500], b"\n", *LINES[1500:]],
        [*LINES, b"\n"], [*LINES, b" \n\n"], [b"\n", *LINES], [b"\xef\xbb\xbf", *LINES], [*LINES[:-1], LINES[-1][:-1]],
        [*LINES[:700], LINES[700][:-1] + b"\r\n", *LINES[701:]], [b" " + LINES[0], *LINES[1:]], [SHORT], [b"\n", SHORT],
        [*LINES, b"\n", SHORT, SNAKE],
    ],
    ids=[
        "first row short", "last row short", "spelling inside", "blank inside", "blank at the end", "blanks at the end",
        "blank first", "byte order mark", "no newline at the end", "one line of Windows", "indented", "one short row",
        "blank and short", "blank and changed rows at the end",
    ],
)  # fmt: skip
def test_a_copy_is_what_the_rows_are_one_by_one(path: Path, folder: Path, lines: list[bytes]) -> None:
    content = b"".join(lines)
    path.write_bytes(content)
    expected = b"".join(row.line() for row in normalise_rows(content.splitlines(keepends=True), SETTINGS))
    with written(path, folder) as spooled:
        assert spooled.path != str(path)
        assert Path(spooled.path).read_bytes() == expected
        assert (spooled.size, spooled.sha256) == (len(expected), hashlib.sha256(expected).hexdigest())
    assert path.read_bytes() == content
    assert list(folder.iterdir()) == []


def test_rows_that_are_refused_leave_the_file_and_no_copy(path: Path, folder: Path) -> None:
    for bad in ([*LINES, b"{\n"], [*LINES, SHORT, b"{\n"]):
        path.write_bytes(b"".join(bad))
        with pytest.raises(ConfigurationError, match=f"line {len(bad)}"), written(path, folder):
            pass
        assert path.read_bytes() == b"".join(bad)
        assert not folder.exists() or list(folder.iterdir()) == []


def test_a_file_that_is_written_to_before_it_is_copied_is_an_error(path: Path, folder: Path) -> None:
    path.write_bytes(b"".join([*LINES, SHORT]))

    def blocks(stream: Any) -> Iterator[Any]:
        for number, block in enumerate(normalise_blocks(stream, SETTINGS)):
            if number == 1:
                with path.open("r+b") as file:
                    file.write(b"[")
            yield block

    with open_read(path) as stream:
        original = Original(str(path), stream)
        with pytest.raises(ConfigurationError, match="changed while it was read"):
            write_input(blocks(stream), str(folder), original=original)
    assert list(folder.iterdir()) == []


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(50)
        file.write(b"#")


def put_another_in_place(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(SHORT)
    other.replace(path)


def upload_while(emulator: EmulatorHandle, path: Path, act: Callable[[Path], None]) -> Any:
    """Upload; once the rows are checked and the first of them are at the service, something happens to the file."""
    emulator.fault(match={"method": "POST", "path": "^/upload/", "query": "upload_id"}, action="cut_upload", bytes=1000)
    acts = iter([act])

    def pread(handle: int, length: int, offset: int, real: Any = os.pread) -> bytes:
        for now in acts:
            now(path)
        piece: bytes = real(handle, length, offset)
        return piece

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", pread)
        return UploadFileOperator(task_id="upload", input_path=str(path)).execute({})


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


def edit_and_put_the_time_back(path: Path) -> None:
    before = path.stat()
    edit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("act", [edit, edit_and_put_the_time_back], ids=["edited", "its time put back"])
def test_checked_rows_that_are_written_to_on_their_way_leave_nothing_at_the_service(
    emulator: EmulatorHandle, path: Path, act: Callable[[Path], None]
) -> None:
    path.write_bytes(b"".join(LINES))
    with pytest.raises(ConfigurationError, match="changed while it was read"):
        upload_while(emulator, path, act)
    assert GeminiBatchHook().list_files().files == ()
    assert path.exists()


def test_a_disk_that_fails_is_told_and_not_tried_again(emulator: EmulatorHandle, path: Path) -> None:
    path.write_bytes(b"".join(LINES))
    asked = []

    def fail(path: Path) -> None:
        asked.append(path)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(ConfigurationError, match="cannot be read: Input/output error"):
        upload_while(emulator, path, fail)
    assert len(asked) == 1


@pytest.mark.parametrize("act", [put_another_in_place, os.unlink], ids=["another in its place", "removed"])
def test_what_was_checked_is_sent_whatever_takes_its_place(
    emulator: EmulatorHandle, path: Path, act: Callable[[Path], None]
) -> None:
    path.write_bytes(b"".join(LINES))
    name = upload_while(emulator, path, act)
    assert GeminiBatchHook().get_file(name).sha256 == hashlib.sha256(b"".join(LINES)).hexdigest()


@pytest.mark.parametrize("lines", [LINES, [*LINES, SHORT]], ids=["in wire form", "with a short row"])
def test_an_input_file_is_there_after_its_upload(emulator: EmulatorHandle, path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(lines))
    UploadFileOperator(task_id="upload", input_path=str(path)).execute({})
    assert path.read_bytes() == b"".join(lines)
    assert [file.path for file in psutil.Process().open_files() if "jsonl" in file.path] == []
