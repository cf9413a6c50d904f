# SPDX-License-Identifier: Apache-2.0
"""Input files: sent as they are where no row has to be changed, copied where one has, and never removed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from airflow_provider_gemini_batch.compat import AirflowFailException
from airflow_provider_gemini_batch.errors import ConfigurationError, InputChangedError
from airflow_provider_gemini_batch.files.atomic import DiskFullError
from airflow_provider_gemini_batch.files.input_file import InputFile, as_it_is, open_original, write_input
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.operators import UploadFileOperator
from airflow_provider_gemini_batch.rows.normalise import normalise_blocks, normalise_rows
from airflow_provider_gemini_batch.rows.settings import RowSettings
from tests.support.airflow_side import set_connection

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

SETTINGS = RowSettings(model="gemini-3.5-flash-lite")
ROW = b'{"key": "%d", "request": {"contents": [{"role": "user", "parts": [{"text": "%s"}]}]}}\n'
LINES = [ROW % (number, b"text " * 60) for number in range(3000)]
SHORT = b'{"key": "short", "prompt": "x"}\n'
SNAKE = b'{"key": "snake", "request": {"contents": [{"parts": [{"text": "x"}]}], "generation_config": {"top_k": 1}}}\n'


@contextmanager
def written(path: Path) -> Iterator[InputFile]:
    stream, original = open_original(str(path))
    with stream, write_input(normalise_blocks(stream, SETTINGS), original=original) as file:
        yield file


def content_of(file: InputFile) -> bytes:
    return file.read(0, file.size + 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_file_in_wire_form_is_not_copied_and_stays(path: Path) -> None:
    path.write_bytes(b"".join(LINES))
    with written(path) as file:
        assert file.is_own
        assert (file.rows, file.size) == (3000, path.stat().st_size)
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file.read(12_345, 700_000) == path.read_bytes()[12_345:712_345]
    assert path.read_bytes() == b"".join(LINES)


def test_a_copy_can_be_read_from_any_offset_and_has_no_name(folder: Path) -> None:
    rows = [{"prompt": f"text {number}"} for number in range(50_000)]
    content = b"".join(row.line() for row in normalise_rows(rows, SETTINGS))
    with write_input(normalise_rows(rows, SETTINGS)) as file:
        assert (file.size, file.rows, file.is_own) == (len(content), 50_000, False)
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.read(1000, 77) == content[1000:1077]
        assert file.read(file.size - 5, 100) == content[-5:]
        assert list(folder.iterdir()) == []


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
def test_a_copy_is_what_the_rows_are_one_by_one(path: Path, lines: list[bytes]) -> None:
    content = b"".join(lines)
    path.write_bytes(content)
    expected = b"".join(row.line() for row in normalise_rows(content.splitlines(keepends=True), SETTINGS))
    with written(path) as file:
        assert not file.is_own
        assert content_of(file) == expected
        assert (file.size, file.sha256) == (len(expected), hashlib.sha256(expected).hexdigest())
    assert path.read_bytes() == content


def test_rows_that_are_refused_leave_the_file_and_nothing_open(path: Path) -> None:
    for bad in ([*LINES, b"{\n"], [*LINES, SHORT, b"{\n"]):
        path.write_bytes(b"".join(bad))
        with pytest.raises(ConfigurationError, match=f"line {len(bad)}"), written(path):
            pass
        assert path.read_bytes() == b"".join(bad)
        assert open_files() == []


def open_files() -> list[str]:
    return [file.path for file in psutil.Process().open_files() if "jsonl" in file.path or "gemini-batch-" in file.path]


@pytest.mark.parametrize("puts_back", [False, True], ids=["edited", "its time put back"])
def test_a_file_that_is_written_to_before_it_is_copied_is_an_error(path: Path, puts_back: bool) -> None:
    path.write_bytes(b"".join([*LINES, SHORT]))

    def blocks(stream: Any) -> Iterator[Any]:
        for number, block in enumerate(normalise_blocks(stream, SETTINGS)):
            if number == 1:
                edit(path, puts_back=puts_back)
            yield block

    stream, original = open_original(str(path))
    with stream, pytest.raises(InputChangedError, match="changed while it was read"):
        write_input(blocks(stream), original=original)
    assert open_files() == []


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edit(path: Path, *, byte: bytes = b"#", puts_back: bool = False) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(50)
        file.write(byte)
    if puts_back:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


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


@pytest.mark.parametrize("act", [edit, partial(edit, puts_back=True)], ids=["edited", "its time put back"])
def test_checked_rows_that_are_written_to_on_their_way_leave_nothing_at_the_service(
    emulator: EmulatorHandle, path: Path, act: Callable[[Path], None]
) -> None:
    path.write_bytes(b"".join(LINES))
    with pytest.raises(InputChangedError, match="changed while it was read") as caught:
        upload_while(emulator, path, act)
    assert not isinstance(caught.value, AirflowFailException)  # a retry reads it anew
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


@pytest.mark.parametrize(
    "act", [put_another_in_place, os.unlink, os.utime], ids=["another in its place", "removed", "touched"]
)
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
    assert open_files() == []


def test_what_arrived_is_compared_by_digest_where_there_is_one_and_by_size_and_time_elsewhere(path: Path) -> None:
    path.write_bytes(b"".join(LINES))
    with as_it_is(str(path)) as file:
        before = digest(path)
        file.check_arrived(None)
        edit(path)
        file.check_arrived(digest(path))
        for arrived in (None, before):
            with pytest.raises(InputChangedError, match="changed while it was read"):
                file.check_arrived(arrived)
    with as_it_is(str(path)) as file:
        assert file.sha256 == digest(path)
        os.utime(path)
        for arrived in (None, file.sha256):
            file.check_arrived(arrived)
        edit(path, byte=b"%", puts_back=True)
        with pytest.raises(InputChangedError):
            file.check_arrived(digest(path))


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let temporary files lie on a device that is full; return the directory that TMPDIR names."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: os.fdopen(os.open("/dev/full", os.O_RDWR), "w+b"))
    return tmp_path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device is Linux's")
@pytest.mark.parametrize("count", [1, 40_000], ids=["at the end", "half-way"])
def test_a_full_disk_is_named_with_bytes_and_the_way_out(path: Path, full_disk: Path, count: int) -> None:
    path.write_bytes(b"".join(b'{"key": "%d", "prompt": "Say it."}\n' % n for n in range(count)))
    stream, original = open_original(str(path))
    with stream, pytest.raises(DiskFullError) as caught:
        write_input(normalise_blocks(stream, SETTINGS), original=original)
    said = str(caught.value)
    assert f"No space left on device in '{full_disk}' after " in said
    assert f"for 'the copy of {path}'" in said
    assert "TMPDIR" in said
    written = int(said.partition(" after ")[2].partition(" bytes")[0].replace(",", ""))
    assert (written >= path.stat().st_size, caught.value.errno) == (count == 1, errno.ENOSPC)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device is Linux's")
def test_a_full_disk_is_named_where_a_file_in_object_storage_is_fetched(path: Path, full_disk: Path) -> None:
    path.write_bytes(b"".join(LINES))
    with pytest.raises(DiskFullError, match=rf"in '{full_disk}' after [\d,]+ bytes for 'local://{path}'.*TMPDIR"):
        as_it_is(f"local://{path}")


def test_a_full_disk_does_not_hide_what_is_wrong_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(ConfigurationError, match="line 2"):
        write_input(normalise_blocks([SHORT, b"{\n"], SETTINGS))


def test_rows_of_two_kinds_are_the_same_submission_read_together_or_apart(path: Path) -> None:
    """One of them is changed, the other stays as it is: also beside it."""
    own = b'{"key": "own", "request": {"contents": [{"role": "user", "parts": [{"text": "t"}]}], %s}}\n'
    rows = [own % b'"systemInstruction": {"parts": [{"text": "Own."}]}', LINES[0]]
    settings = RowSettings(model="gemini-3.5-flash-lite", system_instruction="Be brief.")
    digests = set()
    for between in (b"", b"\n"):
        path.write_bytes(between.join(rows))
        stream, original = open_original(str(path))
        with stream, write_input(normalise_blocks(stream, settings), original=original) as file:
            digests.add(file.sha256)
    assert len(digests) == 1
