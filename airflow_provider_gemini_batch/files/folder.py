# SPDX-License-Identifier: Apache-2.0
"""A folder of files, here or in object storage: listed, read, published whole, or created if absent."""

# Create-if-absent is what several workers agree by: of two that publish the same name, one wins and the other is told.
# It is a hard link on local disk and a conditional write on S3 and Cloud Storage. Elsewhere each worker writes a
# candidate under a name of its own, waits until both must be listed, and the smallest name wins.

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
import time
import uuid
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.atomic import AtomicFile, temporary_files
from airflow_provider_gemini_batch.files.paths import (
    SCHEME,
    local_path,
    normalise_path,
    open_read,
    remote_path,
    resolve_links,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs"})
_CANDIDATE = ".candidate-"


def list_files(place: str, suffixes: Sequence[str] | None = None) -> list[str]:
    """
    Return the files that a path, folder or glob stands for, by name; one that names a file is that file.

    :param place: Local or a URI.
    :param suffixes: Of a folder's files only those with one of these, before ``.gz`` and ``.zst``; None takes all.
        Names that begin with ``_`` or ``.`` are passed over, as readers of data lakes do.
    """
    local = local_path(place)
    if local is not None:
        if os.path.isdir(local):
            found = [entry.path for entry in os.scandir(local) if entry.is_file()]
        elif os.path.exists(local):
            return [local]
        else:
            return sorted(path for path in glob.glob(local, recursive=True) if os.path.isfile(path))
    else:
        path = remote_path(place)
        if any(mark in path.path for mark in "*?["):
            return sorted(_uri(place, name) for name in path.fs.glob(path.path) if _is_data(name, None))
        if path.fs.isfile(path.path):
            return [place]
        # fsspec keeps listings, and files that another worker has written would stay unseen.
        path.fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            entries = path.fs.ls(path.path, detail=True)
            names = [entry["name"] for entry in entries if entry["type"] == "file"]
            return sorted(_uri(place, name) for name in names if _is_data(name, suffixes))
        return []
    return sorted(name for name in found if _is_data(name, suffixes))


def _is_data(name: str, suffixes: Sequence[str] | None) -> bool:
    base = name.rstrip("/").rsplit("/", 1)[-1].lower()
    if base.startswith(("_", ".")):
        return False
    plain = base.removesuffix(".gz").removesuffix(".zst")
    return suffixes is None or plain.endswith(tuple(suffixes))


def _uri(place: str, name: str) -> str:
    """Return a file system's own name as a URI with the scheme and the connection of *place*."""
    match = SCHEME.match(place)
    assert match is not None
    rest = place[match.end() :]
    connection = rest.split("/", 1)[0].partition("@")
    prefix = f"{connection[0]}@" if connection[1] else ""
    return f"{match[0]}{prefix}{name.split('://', 1)[-1].lstrip('/')}"


class Folder:
    """
    A folder that several workers share.

    :param place: Local path or URI. A local one is made when something is first written, for its owner alone.
    :param settle: Seconds after which a candidate written by another worker is listed, where the store knows no
        conditional writes.
    """

    def __init__(self, place: str, *, settle: float = 45.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self.place = normalise_path(place).rstrip("/")
        self._local = local_path(self.place)
        self._settle = settle
        self._sleep = sleep

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.place.rsplit("/", 1)[-1]

    def path(self, name: str) -> str:
        """Return the path or URI of a file in the folder."""
        return f"{self.place}/{name}"

    def below(self, name: str) -> Folder:
        """Return a folder in this one."""
        return Folder(self.path(name), settle=self._settle, sleep=self._sleep)

    def parent(self) -> Folder:
        """Return the folder that this one lies in."""
        return Folder(self.place.rsplit("/", 1)[0], settle=self._settle, sleep=self._sleep)

    def names(self) -> list[str]:
        """Return the names of the files that are listed now, in order; folders and unfinished files are left out."""
        if self._local is not None:
            try:
                with os.scandir(self._local) as entries:
                    found = [entry.name for entry in entries if entry.is_file()]
            except (FileNotFoundError, NotADirectoryError):
                return []
        else:
            found = [
                entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in self._entries() if entry["type"] == "file"
            ]
        return sorted(name for name in found if not name.startswith(".") and _CANDIDATE not in name)

    def folders(self) -> list[str]:
        """Return the names of the folders in this one, in order."""
        if self._local is not None:
            try:
                with os.scandir(self._local) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(
            entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in self._entries() if entry["type"] == "directory"
        )

    def _entries(self) -> list[dict[str, Any]]:
        path = remote_path(self.place)
        path.fs.invalidate_cache()  # another worker's files would stay unseen
        try:
            found: list[dict[str, Any]] = path.fs.ls(path.path, detail=True)
        except FileNotFoundError:
            return []
        return found

    def read(self, name: str) -> bytes | None:
        """Return a small file's content, or None if there is no such file."""
        if self._local is not None:
            try:
                with open(os.path.join(self._local, name), "rb") as file:
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None
        path = remote_path(self.path(name))
        path.fs.invalidate_cache()
        try:
            content: bytes = path.fs.cat_file(path.path)
        except FileNotFoundError:
            return None
        return content

    def create(self, name: str, content: bytes) -> bool:
        """Publish a file unless one of that name is there; return whether this call did."""
        if self._local is not None:
            return self._link(name, content)
        path = remote_path(self.path(name))
        match = SCHEME.match(self.place)
        if match is not None and match[1].lower() in _CONDITIONAL:
            try:
                # One request with a condition (`If-None-Match: *` on S3, generation 0 on Cloud Storage): the store
                # decides who was first.
                path.fs.pipe_file(path.path, content, mode="create")
            except FileExistsError:
                return False
            except OSError as fault:
                # What S3 answers is a 412, for which there is no Python word.
                if "PreconditionFailed" in str(fault) or "412" in str(fault):
                    return False
                raise
            return True
        return self._by_candidates(name, content)

    def _link(self, name: str, content: bytes) -> bool:
        with temporary_files(self.path(name), self._local):
            return self._linked(name, content)

    def _linked(self, name: str, content: bytes) -> bool:
        folder = self._made()
        handle, part = tempfile.mkstemp(dir=folder, prefix=".gemini-batch-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                # A link fails if the name is taken, also on NFS; a rename would replace the other worker's file.
                os.link(part, os.path.join(folder, name))
            except FileExistsError:
                return False
            except OSError as fault:
                if fault.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                return self._by_candidates(name, content)  # a disk without hard links
            _sync(folder)
            return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    def _by_candidates(self, name: str, content: bytes) -> bool:
        if self.read(name) is not None:
            return False
        mine = f"{name}{_CANDIDATE}{uuid.uuid4().hex}"
        self._write(mine, content)
        # As long as the store may need to list what others wrote a moment before. Then each worker sees the same
        # candidates, and takes the same one.
        self._sleep(self._settle)
        if self.read(name) is not None:
            return False
        winner = min(entry for entry in self._candidates() if entry.startswith(f"{name}{_CANDIDATE}"))
        chosen = content if winner == mine else self.read(winner) or content
        self._write(name, chosen)  # whoever looks first writes the winner's
        return winner == mine

    def _candidates(self) -> list[str]:
        if self._local is not None:
            return os.listdir(self._local)
        return [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in self._entries()]

    def _write(self, name: str, content: bytes) -> None:
        with AtomicFile(self.path(name)) as file:
            file.write(content)

    def put(self, name: str, local: str) -> None:
        """Publish a local file under a name, which nobody gives to another content."""
        if self._local is not None:
            self._made()
        with AtomicFile(self.path(name)) as out, open(local, "rb") as source:
            shutil.copyfileobj(source, out, 1 << 20)

    def fetch(self, name: str, into: str) -> str:
        """
        Return a local path of a file; one in object storage is copied below *into*, once.

        :raises ConfigurationError: If it is not there.
        """
        if self._local is not None:
            return os.path.join(self._local, name)
        target = os.path.join(into, name)
        if not os.path.exists(target):
            # A task that is killed in the middle leaves a part, and the next one fetches the file anew.
            part = f"{target}.part"
            with open_read(self.path(name)) as source, open(part, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            os.replace(part, target)
        return target

    def discard(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            if self._local is not None:
                os.unlink(os.path.join(self._local, name))
            else:
                path = remote_path(self.path(name))
                path.fs.rm_file(path.path)

    def remove(self) -> None:
        """Remove the folder and all that is in it; one that is not there is fine."""
        if self._local is not None:
            shutil.rmtree(self._local, ignore_errors=True)
            return
        path = remote_path(self.place)
        with contextlib.suppress(FileNotFoundError):
            path.fs.rm(path.path, recursive=True)

    def _made(self) -> str:
        assert self._local is not None
        try:
            # Prompts and answers of somebody's data lie there. No folder is made through a stranger's link either.
            resolve_links(self._local)
            os.makedirs(self._local, mode=0o700, exist_ok=True)
        except OSError as fault:
            raise ConfigurationError(f"{self.place!r} cannot be written: {fault.strerror or fault}.") from fault
        return self._local


def _sync(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
