# SPDX-License-Identifier: Apache-2.0
"""What is uploaded: the user's own file where it has the very bytes that are to be sent, else a copy."""

# A copy has no name: it is gone with the process, however that ends. A file of the user's is held open, so that what
# was checked is what is sent, whatever takes its place; one that is written to meanwhile is an error.

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

from airflow_provider_gemini_batch.errors import ConfigurationError, InputChangedError
from airflow_provider_gemini_batch.files.atomic import temporary_files
from airflow_provider_gemini_batch.files.background import WRITE_BYTES, BackgroundHash
from airflow_provider_gemini_batch.files.kinds import open_lines
from airflow_provider_gemini_batch.files.paths import BUFFER_BYTES, local_path, open_read
from airflow_provider_gemini_batch.rows.fast_path import FastBlock
from airflow_provider_gemini_batch.rows.settings import check_file_size

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from airflow_provider_gemini_batch.api.models import BackendName
    from airflow_provider_gemini_batch.rows.normalise import WireRow


class OpenFile:
    """
    An open file on local disk, read at any offset.

    :param name: A path or URI, for messages.
    :param stream: Closed by :meth:`close`; its position stays.
    """

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self.name = name
        self.stream = stream
        self._mark = self._look()

    @property
    def size(self) -> int:
        """Bytes, now."""
        return self._look()[0]

    @property
    def is_changed(self) -> bool:
        """Whether somebody has written to the file since it was opened. There are writers that put the time back."""
        try:
            return self._mark != self._look()
        except OSError:  # a network disk that has lost it
            return True

    def read(self, offset: int, length: int) -> bytes:
        """
        Return *length* bytes from *offset* on; fewer only at the end.

        :raises ConfigurationError: If the disk fails, which is no fault of the network.
        """
        pieces = []
        try:
            # pread moves no position: the rows may be read through the same stream meanwhile.
            while length > 0 and (piece := os.pread(self.stream.fileno(), length, offset)):
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
        except OSError as fault:
            raise ConfigurationError(f"{self.name!r} cannot be read: {fault.strerror or fault}.") from fault
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def change(self) -> InputChangedError:
        """Return the error that tells of a change."""
        return InputChangedError(f"{self.name} changed while it was read for the upload. Upload it once complete.")

    def close(self) -> None:
        """Close the file."""
        self.stream.close()

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self.stream.fileno())
        return found.st_size, found.st_mtime_ns


class InputFile:
    """
    A file to upload; closed on leaving ``with``.

    :param size: Bytes that are to be sent.
    :param rows: Number of rows, None where they were not counted.
    :param sha256: Lower-case hex digest of the bytes if it is known; else it is made when it is asked for.
    :param is_own: Whether it is the user's own, which others may write to.
    """

    def __init__(
        self, file: OpenFile, size: int, rows: int | None = None, sha256: str = "", *, is_own: bool = False
    ) -> None:
        self.size = size
        self.rows = rows
        self.is_own = is_own
        self._file = file
        self._sha256 = sha256

    @property
    def sha256(self) -> str:
        """Lower-case hex digest of the bytes."""
        if not self._sha256:
            self._sha256 = self._digest()
        return self._sha256

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset* on; see :meth:`OpenFile.read`."""
        return self._file.read(offset, length)

    def check_arrived(self, sha256: str | None) -> None:
        """
        Check that what has arrived somewhere is what was to be sent.

        :param sha256: Of what has arrived, or None where nobody tells. Then the file's size and time have to do.
        :raises InputChangedError: If it is not.
        """
        if not self.is_own:
            return
        if sha256 is not None and self._sha256:
            is_same = sha256 == self._sha256
        else:
            known = sha256 or self._sha256
            # One that was merely touched is the same, where that can be told.
            # The bytes decide where they can be compared. Size and time alone would fail an upload because a backup
            # touched the file.
            is_same = not self._file.is_changed or (known != "" and self._digest() == known)
        if not is_same:
            raise self._file.change()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for offset in range(0, self.size, BUFFER_BYTES):
            digest.update(self.read(offset, min(BUFFER_BYTES, self.size - offset)))
        return digest.hexdigest()

    def __enter__(self) -> InputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_original(place: str) -> tuple[BinaryIO, OpenFile | None]:
    """
    Open a file of rows from its start.

    :return: The stream of its lines, and the same as a file that can be uploaded, which only one on local disk is that
        need not be unpacked.
    :raises ConfigurationError: If the file is of another kind.
    """
    stream, is_as_it_is = open_lines(place)
    try:
        # Only local files can be held open under their bytes; an object may be replaced at any moment, and is copied.
        return stream, OpenFile(place, stream) if is_as_it_is and local_path(place) is not None else None
    except BaseException:
        stream.close()
        raise


def as_it_is(place: str) -> InputFile:
    """Make any file ready to be uploaded; one in object storage is copied to local disk first."""
    stream = open_read(place)
    if local_path(place) is not None:
        original = OpenFile(place, stream)
        return InputFile(original, original.size, is_own=True)
    with stream, contextlib.ExitStack() as undone:
        copy = undone.enter_context(_nameless())
        with temporary_files(place, written=copy.tell):
            shutil.copyfileobj(stream, copy, BUFFER_BYTES)
            copy.flush()
        file = InputFile(OpenFile(place, copy), copy.tell())
        undone.pop_all()
        return file


def write_input(
    rows: Iterable[FastBlock | WireRow], *, backend: BackendName = "gemini", original: OpenFile | None = None
) -> InputFile:
    """
    Bring rows into a file as *backend* wants them.

    :param rows: From :func:`~airflow_provider_gemini_batch.rows.normalise.normalise_blocks` or ``normalise_rows``;
        their errors pass through.
    :param original: The file whose lines *rows* are. If all of them stay as they are, it is taken as it is, and nothing
        is written.
    :raises ConfigurationError: If the rows or their bytes cannot go into one job.
    :raises InputChangedError: If *original* changed before it was copied.
    :raises DiskFullError: If there is no room for the copy.
    """
    count = 0
    checked = BUFFER_BYTES
    name = "the rows" if original is None else original.name
    with (
        contextlib.closing(_Writer(original)) as writer,
        temporary_files(f"the copy of {name}", written=lambda: writer.size),
    ):
        for found in rows:
            if isinstance(found, FastBlock):
                # Rows are numbered by their lines: none was left out up to here.
                # A block counts as the original's own only if no row before it was left out or rewritten: bytes from
                # two places are never mixed.
                writer.write(found.lines(), is_next_in_original=found.is_as_given and found.first == count + 1)
                count += len(found.keys)
            else:
                writer.write(found.line())
                count += 1
            # Not at each row: the check is cheap, and yet there are millions.
            if writer.size >= checked:
                check_file_size(writer.size, backend)
                checked = writer.size + BUFFER_BYTES
        check_file_size(writer.size, backend)
        return writer.finish(count)


class _Writer:
    """
    Takes in what is to be sent: a copy is written from the first byte on that the original has not.

    :param original: None if there is none.
    """

    def __init__(self, original: OpenFile | None) -> None:
        self.size = 0
        self._original = original
        self._copy: BinaryIO | None = None
        self._sha256 = hashlib.sha256()
        self._digest = BackgroundHash(self._sha256)

    def write(self, data: bytes, *, is_next_in_original: bool = False) -> None:
        """Take bytes in."""
        if self._copy is None and (self._original is None or not is_next_in_original):
            self._copy = self._begin()
        if self._copy is not None:
            self._copy.write(data)
        self._digest.update(data)
        self.size += len(data)

    def finish(self, rows: int) -> InputFile:
        """Return the file; it is the caller's to close."""
        original = self._original
        # What follows the last row, blank lines say, is not sent.
        if self._copy is None and (original is None or original.size != self.size):
            self._copy = self._begin()
        self._digest.finish()
        sha256 = self._sha256.hexdigest()
        if self._copy is None:
            return InputFile(cast("OpenFile", original), self.size, rows, sha256, is_own=True)
        self._copy.flush()
        file = InputFile(OpenFile("the copy of the rows", self._copy), self.size, rows, sha256)
        self._copy = None
        return file

    def close(self) -> None:
        """Drop what was not finished."""
        self._digest.close()
        if self._copy is not None:
            with contextlib.suppress(OSError):  # a full disk, say, which may be why it is dropped
                self._copy.close()

    def _begin(self) -> BinaryIO:
        """Return a copy of what was taken in up to now."""
        with contextlib.ExitStack() as undone:
            copy = undone.enter_context(_nameless())
            if self._original is not None:
                digest = hashlib.sha256()
                for offset in range(0, self.size, WRITE_BYTES):
                    piece = self._original.read(offset, min(WRITE_BYTES, self.size - offset))
                    digest.update(piece)
                    copy.write(piece)
                self._digest.finish()
                if digest.digest() != self._sha256.digest():
                    raise self._original.change()
            undone.pop_all()
            return copy


def _nameless() -> BinaryIO:
    return cast("BinaryIO", tempfile.TemporaryFile(prefix="gemini-batch-", buffering=WRITE_BYTES))
