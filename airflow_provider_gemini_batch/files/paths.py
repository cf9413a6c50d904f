# SPDX-License-Identifier: Apache-2.0
"""
Paths and URIs, and how they are opened for reading.

A path is a local one (``~`` and ``file:///`` too) or a URI that Airflow's object storage understands, with a connection
inside if need be: ``s3://aws_default@bucket/key``. No other module knows ``ObjectStoragePath`` or Airflow's
configuration of files.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections import deque
from typing import Any, BinaryIO, cast

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError, InputNotFoundError

BUFFER_BYTES = 1 << 20

MAX_LINKS = 40
"""Symbolic links followed in one path, as Linux does."""

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_ONE_SLASH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_DRIVE = re.compile(r"^[A-Za-z]:\\")
_FILE_URI = re.compile(r"^file:(?://(?:localhost)?)?(/(?!/).*)$", re.IGNORECASE | re.DOTALL)
_NEVER_A_FILE = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP})
# Named in the message, as a missing file system shows as an error of fsspec that names a Python package of its own.
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


def _of_airflow(name: str) -> Any:
    """Return a name of Airflow's, or None where that is not installed: a client in a notebook does without."""
    from airflow_provider_gemini_batch import compat

    return getattr(compat, name, None)


def normalise_path(value: Any, name: str = "A path") -> str:
    """
    Return a path or URI as text, ``~`` expanded.

    :param value: Text, any path object, or Airflow's ``ObjectStoragePath``.
    :param name: The argument, for the message.
    :raises ConfigurationError: If it can be neither a path nor a URI, or can be read in two ways.
    """
    text = value
    if not isinstance(value, str):
        # The one of Airflow 3 is no os.PathLike.
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        of_airflow = _of_airflow("ObjectStoragePath")
        text = str(value) if of_airflow is not None and isinstance(value, of_airflow) else text
    if not isinstance(text, str):
        raise ConfigurationError(f"{name} must be a path or a URI, not {value!r}.")
    if not text.strip():
        raise ConfigurationError(f"{name} is empty.")
    try:
        if b"\0" in os.fsencode(text):
            raise ConfigurationError(f"{name} holds a NUL character, which no path may: {text!r}.")
    except UnicodeEncodeError as fault:
        raise ConfigurationError(f"{name} holds a character that no path may: {text!r}.") from fault
    if _DRIVE.match(text):
        # Elsewhere this is one long name, of a file in whatever folder the task runs in.
        raise ConfigurationError(f"{name} {text!r} is a path of Windows: give the one that this machine has for it.")
    uri = _ONE_SLASH.match(text)
    # pathlib makes `s3:/bucket` of `s3://bucket`, which would silently be a folder called "s3:" beside the task.
    if uri is not None and uri[1].lower() != "file":
        raise ConfigurationError(
            f"{name} {text!r} lacks a slash of {uri[1]}://, as URIs do that were made a pathlib.Path: give it as text."
        )
    return os.path.expanduser(text)


def base_name(path: str) -> str:
    """Return the last part of a path or URI, which names its file to people."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def local_path(path: str | os.PathLike[str]) -> str | None:
    """
    Return *path* as a local path, or None if it lies elsewhere.

    :raises ConfigurationError: For a ``file:`` URI of another machine, or one with percent-escapes: RFC 8089 decodes
        them and Airflow's object storage does not.
    """
    text = normalise_path(path)
    match = SCHEME.match(text) or _ONE_SLASH.match(text)
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


def resolve_links(path: str) -> str:
    """
    Return a local path without symbolic links, as ``os.path.realpath`` does, and refuse links that strangers planted.

    In a directory with the sticky bit, such as ``/tmp``, everybody may create names. A link there that neither we nor
    the directory's owner made could send our bytes to any file of ours. Linux refuses to *open* such a link
    (``fs.protected_symlinks``); a rename over its target would slip past that rule, so it is checked here.

    :raises ConfigurationError: If the path goes through such a link.
    :raises OSError: If a name is too long, or links form a loop.
    """
    # Name by name, as the kernel does: only so is each link on the way looked at.
    found = "/"
    rest = deque(os.path.abspath(path).split("/"))
    followed = 0
    while rest:
        name = rest.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            found = os.path.dirname(found)
            continue
        entry = os.path.join(found, name)
        try:
            facts = os.lstat(entry)
        except (FileNotFoundError, NotADirectoryError):
            return os.path.normpath(os.path.join(entry, *rest))
        if not stat.S_ISLNK(facts.st_mode):
            found = entry
            continue
        folder = os.stat(found)
        if folder.st_mode & stat.S_ISVTX and facts.st_uid not in (os.geteuid(), folder.st_uid):
            raise ConfigurationError(
                f"{path!r} goes through {entry!r}, a symbolic link that another user (uid {facts.st_uid}) placed in a "
                "directory open to everybody. Nothing is written through it. Remove the link or choose another path."
            )
        followed += 1
        if followed > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(entry)
        if os.path.isabs(target):
            found = "/"
        rest.extendleft(reversed(target.split("/")))
    return found


def output_mode() -> int:
    """
    Return the permission bits that a new output file may have at most; the process's umask applies besides.

    :raises ConfigurationError: If ``[gemini_batch] output_mode`` is no octal mode.
    """
    conf = _of_airflow("conf")
    text = "" if conf is None else str(conf.get("gemini_batch", "output_mode", fallback="") or "").strip()
    # Group and others as the umask allows, like every file that a task writes.
    if not text:
        return 0o666
    if not re.fullmatch("(0o)?[0-7]{3,4}", text) or (mode := int(text.removeprefix("0o"), 8)) & ~0o666:
        raise ConfigurationError(
            f"[gemini_batch] output_mode must be an octal mode of read and write bits such as 0640, not {text!r}."
        )
    return mode


def remote_path(uri: str) -> Any:
    """Return Airflow's path object for a URI, with its file system loaded."""
    of_airflow = _of_airflow("ObjectStoragePath")
    if of_airflow is None:
        raise ConfigurationError(f"{uri} is reached by way of Airflow, which is not installed here: give a local path.")
    match = SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    package = _PROVIDERS.get(scheme)
    hint = f"install {package}" if package else "install the Airflow provider that brings it"
    try:
        path = of_airflow(uri)
        path.fs  # noqa: B018 - loads the file system, which is where a missing package shows
    except ValueError as fault:
        raise ConfigurationError(f"No file system for {scheme}:// is there ({fault}): {hint}.") from fault
    except ImportError as fault:
        raise ConfigurationError(f"The file system for {scheme}:// cannot be loaded ({fault}): {hint}.") from fault
    return path


def not_found(path: str) -> GeminiBatchError:
    """Return the error for an input that is not there: a local one may be on another host, or not yet on this one."""
    if local_path(path) is None:
        return ConfigurationError(f"There is no file {path!r}.")
    return InputNotFoundError(
        f"There is no file {path!r} on host {socket.gethostname()}. Every worker has to see this path: use a disk "
        "that all of them share, or object storage. A retry looks again, as shared disks show new files late."
    )


def open_read(path: str | os.PathLike[str]) -> BinaryIO:
    """
    Open a file for reading bytes from its start.

    :raises InputNotFoundError: If a local file is not there.
    :raises ConfigurationError: If it cannot be read, is no regular file, is missing in object storage, or its file
        system needs a package.
    """
    path = normalise_path(path)
    local = local_path(path)
    try:
        if local is None:
            return cast("BinaryIO", remote_path(path).open("rb"))
        # To open a pipe is to wait for its writer.
        if not stat.S_ISREG(os.stat(local).st_mode):
            raise ConfigurationError(f"{path!r} is not a regular file.")
        return open(local, "rb", buffering=BUFFER_BYTES)
    except FileNotFoundError as fault:
        if local is None:
            raise not_found(path) from fault
        raise not_found(path) from None
    except OSError as fault:
        if isinstance(fault, (IsADirectoryError, PermissionError)) or fault.errno in _NEVER_A_FILE:
            raise ConfigurationError(f"{path!r} cannot be read: {fault.strerror or fault}.") from fault
        raise
