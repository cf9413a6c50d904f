# SPDX-License-Identifier: Apache-2.0
"""Would a run write over what it reads, or read tomorrow what it writes today?"""

# One file has many names: a relative path, `~`, `file://`, a symbolic link; in object storage another spelling of the
# scheme, or a connection inside the URI. Two names with different connections are one object if the store tells the
# same of both, as buckets of one name may lie in two stores.

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.paths import SCHEME, base_name, local_path, normalise_path, remote_path
from airflow_provider_gemini_batch.run.input_files import FORMATS
from airflow_provider_gemini_batch.run.outputs import form_of, sample_place
from airflow_provider_gemini_batch.run.sources import FileSource, QuerySource, files_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_gemini_batch.run.sources import Source
    from airflow_provider_gemini_batch.run.spec import RunSpec

_SAME_STORE = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs", "adl": "abfs"}
_LITERAL = re.compile("'((?:[^']|'')+)'|\"((?:[^\"]|\"\")+)\"")
_PATTERN = re.compile(r"[*?\[]")


def check_outputs(spec: RunSpec, source: Source) -> None:
    """
    Refuse an output that is the input, or one of its files, or would be at the next run.

    :raises ConfigurationError: Naming the argument and both places.
    """
    outputs = spec.outputs
    for argument, place in (("output_path", outputs.path), ("errors_path", outputs.errors_path)):
        if place is None:
            continue
        for read in _places(source):
            for written in (place, sample_place(place)) if spec.sample is not None else (place,):
                if (why := _overlap(written, read, getattr(source, "format", None))) is not None:
                    raise ConfigurationError(
                        f"{argument} {written!r} {why} {read!r}: give it a place of its own, so that the input stays "
                        "as it is."
                    )


def _places(source: Source) -> Iterator[str]:
    """Yield the files, folders and globs that a source reads, as far as that can be told."""
    if isinstance(source, FileSource):
        yield normalise_path(source.place, "input_path")
    elif isinstance(source, QuerySource):
        # A query's files are found as literals in its text. That is a guess, but one that errs on the side of a
        # question.
        for match in _LITERAL.finditer(source.sql):
            literal = (match[1] or match[2]).replace("''", "'")
            if literal.strip() and _is_data(literal):
                yield os.path.expanduser(literal)


def _overlap(written: str, read: str, format: str | None) -> str | None:
    """Return what an output is to an input, or None if nothing."""
    if is_same_place(written, read):
        return "is the input"
    with contextlib.suppress(OSError, ConfigurationError):  # what cannot be listed is told when it is read
        if any(is_same_place(written, file) for file in files_of(read, format) if file != read):
            return "is a file of the input"
    if form_of(written) == "folder" or not _is_data(written) or base_name(written).startswith(("_", ".")):
        return None
    if _PATTERN.search(base_name(read)):
        is_read = fnmatch.fnmatch(base_name(written), base_name(read))
        is_read = is_read and is_same_place(*map(_parent, (written, read)))
        return "would be read again at the next run by" if is_read else None
    is_within = not _is_data(read) and is_same_place(_parent(written), read)
    return "would be read again at the next run from" if is_within else None


def _is_data(place: str) -> bool:
    plain = place.lower().removesuffix(".gz").removesuffix(".zst")
    return os.path.splitext(plain)[1] in FORMATS


def _parent(place: str) -> str:
    head, slash, _ = place.rstrip("/").rpartition("/")
    return head if head else slash or "."


def is_same_place(one: str, other: str) -> bool:
    """Whether two names are one place."""
    here, there = local_path(one), local_path(other)
    if here is not None and there is not None:
        return _is_same_file(here, there)
    if here is not None or there is not None:
        return False
    first, second = _address(one), _address(other)
    if first[::2] != second[::2]:
        return False
    return first[1] == second[1] or ((facts := _facts(one)) is not None and facts == _facts(other))


def _is_same_file(here: str, there: str) -> bool:
    if os.path.realpath(here) == os.path.realpath(there):
        return True
    with contextlib.suppress(OSError):
        # A disk that is mounted twice; a hard link is no danger, as it keeps what the other name loses.
        return os.path.samefile(here, there) and os.stat(here).st_nlink == 1
    return False


def _address(uri: str) -> tuple[str, str, str]:
    """Return the store's kind, the connection inside the URI, and the place in the store."""
    match = SCHEME.match(uri)
    assert match is not None
    rest = uri[match.end() :].rstrip("/")
    connection, at, place = rest.partition("@")
    if not at or "/" in connection:
        connection, place = "", rest
    kind = match[1].lower()
    return _SAME_STORE.get(kind, kind), connection, place


def _facts(uri: str) -> dict[str, Any] | None:
    """Return what the store tells of an object, or None if that is nothing."""
    try:
        path = remote_path(uri)
        path.fs.invalidate_cache()
        return dict(path.fs.info(path.path))
    except Exception:  # each store has errors of its own; what is not there is no input
        return None
