# SPDX-License-Identifier: Apache-2.0
"""
Files, here and in object storage: read in pieces, published whole.

A place is a local path (``~`` and ``file:///`` too) or a URI that Airflow's object storage understands, with a
connection inside if need be: ``s3://aws_default@bucket/key``. Nothing half written ever appears under a final name:

* Local: written beside the target, synced, then renamed over it.
* Object stores: written to a local file first and sent with one upload, which the store publishes when it is complete.
* Other remote file systems (SFTP, HDFS): sent under a temporary name and moved.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import socket
import stat
import tempfile
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.background import WRITE_BYTES, EarlyOut

if TYPE_CHECKING:
    from types import TracebackType

BUFFER_BYTES = 1 << 20

OTHER_HOST_SECONDS = 7 * 24 * 3600.0
"""Age from which another host's unfinished file is taken for abandoned: not every network disk passes locks on."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_ONE_SLASH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_FILE_URI = re.compile(r"^file:(?://(?:localhost)?)?(/(?!/).*)$", re.IGNORECASE | re.DOTALL)
# Their uploads appear when they are complete, and only then; a move would be a second copy of all bytes.
_PUBLISHES_ON_CLOSE = frozenset({"s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "az", "adl", "wasb", "oss"})
_NEVER_A_FILE = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP})
_PROVIDERS = {
    "s3": "apache-airflow-providers-amazon[s3fs]",
    "s3a": "apache-airflow-providers-amazon[s3fs]",
    "s3n": "apache-airflow-providers-amazon[s3fs]",
    "gs": "apache-airflow-providers-google",
    "gcs": "apache-airflow-providers-google",
    "abfs": "apache-airflow-providers-microsoft-azure",
    "abfss": "apache-airflow-providers-microsoft-azure",
    "adl": "apache-airflow-providers-microsoft-azure",
    "az": "apache-airflow-providers-microsoft-azure",
    "hdfs": "apache-airflow-providers-apache-hdfs",
    "oss": "apache-airflow-providers-alibaba",
    "sftp": "apache-airflow-providers-sftp",
}


def place_of(value: Any, name: str = "A path") -> str:
    """
    Return a path or URI as text, ``~`` expanded.

    :param value: Text, any path object, or Airflow's ``ObjectStoragePath``.
    :param name: The argument, for the message.
    :raises ConfigurationError: If it can be neither a path nor a URI, or can be read in two ways.
    """
    text = value
    if not isinstance(value, str):
        from airflow_provider_gemini_batch.compat import ObjectStoragePath

        # The one of Airflow 3 is no os.PathLike.
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        text = str(value) if isinstance(value, ObjectStoragePath) else text
    if not isinstance(text, str):
        raise ConfigurationError(f"{name} must be a path or a URI, not {value!r}.")
    if not text.strip():
        raise ConfigurationError(f"{name} is empty.")
    try:
        if b"\0" in os.fsencode(text):
            raise ConfigurationError(f"{name} holds a NUL character, which no path may: {text!r}.")
    except UnicodeEncodeError as fault:
        raise ConfigurationError(f"{name} holds a character that no path may: {text!r}.") from fault
    uri = _ONE_SLASH.match(text)
    if uri is not None and uri[1].lower() != "file":
        raise ConfigurationError(
            f"{name} {text!r} lacks a slash of {uri[1]}://, as URIs do that were made a pathlib.Path: give it as text."
        )
    return os.path.expanduser(text)


def base_name(place: str) -> str:
    """Return the last part of a path or URI, which names its file to people."""
    return place.rstrip("/").rsplit("/", 1)[-1]


def local_path(place: str | os.PathLike[str]) -> str | None:
    """
    Return *place* as a local path, or None if it lies elsewhere.

    :raises ConfigurationError: For a ``file:`` URI of another machine, or one with percent-escapes: RFC 8089 decodes
        them and Airflow's object storage does not.
    """
    text = place_of(place)
    match = _SCHEME.match(text) or _ONE_SLASH.match(text)
    if match is None:
        return text
    if match[1].lower() != "file":
        return None
    uri = _FILE_URI.match(text)
    if uri is None:
        raise ConfigurationError(f"{text!r} names a file of another machine. A file of this one is file:///its/path.")
    if re.search("%[0-9A-Fa-f]{2}", uri[1]):
        raise ConfigurationError(f"{text!r} has percent-escapes, which not everybody decodes: give the path itself.")
    return uri[1]


def _remote(place: str) -> Any:
    """Return Airflow's path object for a URI, with its file system loaded."""
    from airflow_provider_gemini_batch.compat import ObjectStoragePath

    match = _SCHEME.match(place)
    scheme = match[1].lower() if match else ""
    package = _PROVIDERS.get(scheme)
    hint = f"install {package}" if package else "install the Airflow provider that brings it"
    try:
        path = ObjectStoragePath(place)
        path.fs  # noqa: B018 - loads the file system, which is where a missing package shows
    except ValueError as fault:
        raise ConfigurationError(f"No file system for {scheme}:// is there ({fault}): {hint}.") from fault
    except ImportError as fault:
        raise ConfigurationError(f"The file system for {scheme}:// cannot be loaded ({fault}): {hint}.") from fault
    return path


def open_read(place: str | os.PathLike[str]) -> BinaryIO:
    """
    Open a file for reading bytes from its start.

    :raises ConfigurationError: If it is not there, cannot be read, is no regular file, or its file system needs a
        package.
    """
    place = place_of(place)
    local = local_path(place)
    try:
        if local is None:
            return cast("BinaryIO", _remote(place).open("rb"))
        # To open a pipe is to wait for its writer.
        if not stat.S_ISREG(os.stat(local).st_mode):
            raise ConfigurationError(f"{place!r} is not a regular file.")
        return open(local, "rb", buffering=BUFFER_BYTES)
    except FileNotFoundError as fault:
        raise ConfigurationError(f"There is no file {place!r}.") from fault
    except OSError as fault:
        if isinstance(fault, (IsADirectoryError, PermissionError)) or fault.errno in _NEVER_A_FILE:
            raise ConfigurationError(f"{place!r} cannot be read: {fault.strerror or fault}.") from fault
        raise


class AtomicFile:
    """
    A file that appears under its name whole or not at all: ``with AtomicFile(place) as out: out.write(...)``.

    :param place: Local path or object-storage URI; missing local directories are made.
    :param workdir: Local directory for what goes to object storage, None for the system's.
    """

    def __init__(self, place: str | os.PathLike[str], *, workdir: str | None = None) -> None:
        self.place = place_of(place)
        local = local_path(self.place)
        # A link stays one, and what it points to is replaced.
        self._target = None if local is None else os.path.realpath(local)
        if self._target is None:
            self._path = _remote(self.place)
            directory = workdir
        else:
            directory = os.path.dirname(os.path.abspath(self._target))
        try:
            if directory is not None:
                os.makedirs(directory, exist_ok=True)
            if self._target is not None and not _is_free_or_file(self._target):
                raise OSError("it is a directory or a device, not a file")
            handle, self.name = _part(directory, self._target or self.place)
        except FileExistsError as fault:
            raise ConfigurationError(f"{self.place!r} cannot be written: {directory} is a file, no folder.") from fault
        except OSError as fault:
            raise ConfigurationError(f"{self.place!r} cannot be written: {fault.strerror or fault}.") from fault
        self._lock = os.dup(handle)  # the lock is held until the last copy is closed
        self._raw = EarlyOut(handle, "wb")
        self._file = io.BufferedWriter(self._raw, WRITE_BYTES)
        self.write = self._file.write

    def publish(self) -> None:
        """Give the file its name. What had the name before is replaced."""
        try:
            self._publish()
        finally:
            self.discard()

    def _publish(self) -> None:
        self._file.flush()
        os.fsync(self._raw.fileno())
        self._file.close()
        if self._target is not None:
            # mkstemp makes files for the owner alone; a result is as readable as any other file of this user.
            os.chmod(self.name, _mode_for(self._target))
            os.replace(self.name, self._target)
            directory = os.open(os.path.dirname(os.path.abspath(self._target)), os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            return
        self._send()

    def _send(self) -> None:
        path = self._path
        match = _SCHEME.match(self.place)
        if match is not None and match[1].lower() in _PUBLISHES_ON_CLOSE:
            path.fs.put_file(self.name, path.path)
            return
        with contextlib.suppress(FileExistsError, NotImplementedError):
            path.fs.makedirs(os.path.dirname(path.path), exist_ok=True)
        part = f"{path.path}.{os.path.basename(self.name)}"
        try:
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

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.publish()
        else:
            self.discard()


def _is_free_or_file(path: str) -> bool:
    """Say whether a file may be put at *path*; a name that cannot be is an OSError now, not once all is written."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _part(directory: str | None, place: str) -> tuple[int, str]:
    """
    Make the file in which what is meant for *place* is written, and remove those that killed writers left.

    Its lock says that its writer lives: the system drops it with the process, however that ends.
    """
    prefix = f".gemini-batch-{_digest(place)}-"
    own = f"{prefix}{_digest(socket.gethostname())}-"
    _remove_abandoned(directory or tempfile.gettempdir(), prefix, own)
    while True:
        handle, name = tempfile.mkstemp(dir=directory, prefix=own, suffix=".part")
        is_ours = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_ours = False  # another writer found it before it was locked, and is about to remove it
        except OSError:
            pass  # there are no locks here, and so nobody will take it for abandoned
        if is_ours and os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _remove_abandoned(directory: str, prefix: str, own: str) -> None:
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(directory) if name.startswith(prefix) and name.endswith(".part")]
        for path in (os.path.join(directory, name) for name in names):
            with contextlib.suppress(OSError), open(path, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                age = time.time() - os.fstat(file.fileno()).st_mtime
                if os.path.basename(path).startswith(own) or age > OTHER_HOST_SECONDS:
                    os.unlink(path)


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]


def _mode_for(path: str) -> int:
    """Return the mode of the file that is replaced, else that of any new file of this user."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(os.stat(path).st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
