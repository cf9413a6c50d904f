# SPDX-License-Identifier: Apache-2.0
"""Files that appear under their name whole or not at all."""

# * Local: written beside the target, synced, then renamed over it.
# * Object stores: written to a local file first and sent with one upload, which the store publishes when it is
#   complete.
# * Other remote file systems (SFTP, HDFS): sent under a temporary name and moved.
#
# The unfinished file is called `.gemini-batch-<target>-<host>-<random>.part`. Its writer holds a lock on it, which the
# system drops when the process dies, so the next writer of the same target can tell an abandoned file from a living one
# and removes it.

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import secrets
import socket
import stat
import tempfile
import time
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.background import WRITE_BYTES, WriteBehindFile
from airflow_provider_gemini_batch.files.paths import (
    SCHEME,
    local_path,
    normalise_path,
    output_mode,
    remote_path,
    resolve_links,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

OTHER_HOST_SECONDS = 7 * 24 * 3600.0
"""Age from which another host's unfinished file is taken for abandoned: not every network disk passes locks on."""

# Their uploads appear when they are complete, and only then; a move would be a second copy of all bytes.
_PUBLISHES_ON_CLOSE = frozenset({"s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "az", "adl", "wasb", "oss"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskFullError(OSError):
    """
    A disk or a quota is full, or a file may not grow further.

    The message names the path, the bytes written and how to choose another place.
    """


def disk_full(fault: OSError, path: str, written: int, directory: str) -> DiskFullError:
    """
    Return the error that tells a person what to do about a full disk.

    :param fault: As the system raised it.
    :param path: What was to be written.
    :param written: Bytes that had been written by then.
    :param directory: Where they lay.
    """
    # Asked at once and only here: by the time a person looks, somebody else has made room.
    free = ""
    with contextlib.suppress(OSError):
        facts = os.statvfs(directory)
        free = f"; {facts.f_bavail * facts.f_frsize:,} bytes are free there"
    way_out = "Make room and retry."
    if fault.errno == errno.EFBIG:
        way_out = "Raise the limit on the size of a file (ulimit -f, or the file system's), or choose another place."
    if _is_temporary(directory):
        way_out += " Temporary files go where the environment variable TMPDIR says: set it to a larger disk."
    text = f"{fault.strerror} in {directory!r} after {written:,} bytes for {path!r}{free}. {way_out}"
    return DiskFullError(fault.errno, text)


def _is_temporary(directory: str) -> bool:
    """Whether TMPDIR decides where *directory* lies: it is the system's, or one of ours in there."""
    place, system = os.path.realpath(directory), os.path.realpath(tempfile.gettempdir())
    parent, name = os.path.split(place)
    return place == system or (parent == system and name.startswith("gemini-batch-"))


@contextlib.contextmanager
def temporary_files(
    path: str, directory: str | None = None, *, written: Callable[[], int] = lambda: 0
) -> Iterator[None]:
    """
    Give the fault of a full disk, met while temporary files are written, its place and a way out.

    :param path: What the temporary files are for.
    :param directory: Where they lie; None for the system's, which TMPDIR names.
    :param written: Returns how many bytes have gone into them.
    :raises DiskFullError: If the disk or a quota is full.
    """
    try:
        yield
    except DiskFullError:
        raise
    except OSError as fault:
        if fault.errno not in _FULL:
            raise
        raise disk_full(fault, path, written(), directory or tempfile.gettempdir()) from fault


class AtomicFile:
    """
    A file that appears under its name whole or not at all: ``with AtomicFile(path) as out: out.write(...)``.

    A new file gets the permissions of any file of this user (umask, default access lists), narrowed by
    ``[gemini_batch] output_mode``; one that replaces another keeps the other's, narrowed likewise.

    :param path: Local path or object-storage URI; missing local directories are made.
    :param workdir: Local directory for what goes to object storage, None for the system's.
    :raises ConfigurationError: If nothing can be written there, or a stranger's link lies in the way.
    """

    def __init__(self, path: str | os.PathLike[str], *, workdir: str | None = None) -> None:
        self.path = normalise_path(path)
        local = local_path(self.path)
        self._target: str | None = None
        self._mode: int | None = None
        if local is None:
            self._remote = remote_path(self.path)
        try:
            if local is not None:
                # A link stays one, and what it points to is replaced.
                # Now and not at the end: a folder that cannot be written is told before hours of work go into the file.
                self._target = resolve_links(local)
            self.directory = os.path.dirname(self._target) if self._target else workdir or tempfile.gettempdir()
            os.makedirs(self.directory, exist_ok=True)
            if self._target is not None:
                self._mode = _mode_of(self._target)
            # What waits in a shared temporary directory is for its owner alone.
            creation = 0o600 if self._target is None or self._mode is not None else output_mode()
            handle, self.name = _part(self.directory, self._target or self.path, creation)
        except FileExistsError as fault:
            raise ConfigurationError(
                f"{self.path!r} cannot be written: {self.directory} is a file, no folder."
            ) from fault
        except OSError as fault:
            raise ConfigurationError(f"{self.path!r} cannot be written: {fault.strerror or fault}.") from fault
        self._lock = os.dup(handle)  # the lock is held until the last copy is closed
        self._raw = WriteBehindFile(handle, "wb")
        self._file = io.BufferedWriter(self._raw, WRITE_BYTES)
        self.write = self._file.write

    def publish(self) -> None:
        """
        Give the file its name. What had the name before is replaced.

        :raises DiskFullError: If the disk or a quota is full.
        """
        try:
            self._publish()
        except OSError as fault:
            raise self._explained(fault) from fault
        finally:
            self.discard()

    def _publish(self) -> None:
        self._file.flush()
        # Before the rename: a crash of the machine may otherwise leave the name with an empty file behind it.
        os.fsync(self._raw.fileno())
        if self._mode is not None:
            # On the handle, as nobody can put another file under the name in between.
            os.fchmod(self._raw.fileno(), self._mode & output_mode())
        self._file.close()
        if self._target is None:
            self._send()
            return
        os.replace(self.name, self._target)
        # The rename itself is a change of the directory, and is on the disk only once that is synced.
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _send(self) -> None:
        path = self._remote
        match = SCHEME.match(self.path)
        if match is not None and match[1].lower() in _PUBLISHES_ON_CLOSE:
            path.fs.put_file(self.name, path.path)
            return
        with contextlib.suppress(FileExistsError, NotImplementedError):
            path.fs.makedirs(os.path.dirname(path.path), exist_ok=True)
        part = f"{path.path}.{os.path.basename(self.name)}"
        try:
            # Moved afterwards, as a reader of SFTP or HDFS sees a file grow.
            path.fs.put_file(self.name, part)
            path.fs.mv(part, path.path)
        except BaseException:
            with contextlib.suppress(Exception):
                path.fs.rm_file(part)
            raise

    def discard(self) -> None:
        """Remove what was written; nothing appears."""
        with contextlib.suppress(OSError):  # a full disk, say, which is why this is discarded
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _explained(self, fault: OSError) -> OSError:
        if fault.errno not in _FULL or isinstance(fault, DiskFullError):
            return fault
        written = 0
        with contextlib.suppress(OSError):
            written = os.stat(self.name).st_size
        return disk_full(fault, self.path, written, self.directory)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.publish()
            return
        explained = self._explained(error) if isinstance(error, OSError) else error
        self.discard()
        if explained is not None and explained is not error:
            raise explained from error


def _mode_of(path: str) -> int | None:
    """
    Return the permissions of the file at *path*, or None if there is none.

    :raises OSError: If no file can be put there, now rather than once all is written.
    """
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        raise OSError("it is a directory or a device, not a file")
    return stat.S_IMODE(facts.st_mode)


def _part(directory: str, target: str, mode: int) -> tuple[int, str]:
    """
    Create the unfinished file of *target*, locked, and remove those that killed writers left.

    :param mode: Permissions before the umask.
    """
    prefix = f".gemini-batch-{_digest(target)}-"
    own = f"{prefix}{_digest(socket.gethostname())}-"
    _remove_abandoned(directory, prefix, own)
    while True:
        name = os.path.join(directory, f"{own}{secrets.token_hex(6)}.part")
        try:
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            continue
        is_ours = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_ours = False  # another writer found it before it was locked, and is about to remove it
        except OSError:
            pass  # there are no locks here, and so nobody will take it for abandoned
        # Between creating and locking, a writer that tidies up may have unlinked it: then there is a handle and no
        # name.
        if is_ours and os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _remove_abandoned(directory: str, prefix: str, own: str) -> None:
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(directory) if name.startswith(prefix) and name.endswith(".part")]
        for path in (os.path.join(directory, name) for name in names):
            with contextlib.suppress(OSError), _open_part(path) as file:
                # A lock that can be had means that the writer is dead. Of another host the age decides besides, since
                # not every network disk passes locks on.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                age = time.time() - os.fstat(file.fileno()).st_mtime
                if os.path.basename(path).startswith(own) or age > OTHER_HOST_SECONDS:
                    os.unlink(path)


def _open_part(path: str) -> io.FileIO:
    # O_NOFOLLOW: in a shared folder somebody may have put a link under such a name.
    return io.FileIO(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b")


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]
