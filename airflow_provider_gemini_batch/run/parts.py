# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are the table? Those that its manifest names, written last, by one writer or several."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError
from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.files.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Sequence

MANIFEST = "_manifest.json"
_WRITER = "_writer-"
_BEGUN = "_begun-"
_LOOKS = 100


def begin(folder: Folder, name: str, parts: Sequence[str]) -> list[str]:
    """
    Note which parts a writer is about to send, and return those that they replace.

    What a writer that died had sent, and nobody named, is found by its note, and replaced as well.

    :return: Parts of this writer that are to be removed once the new ones are published.
    """
    found = (*_parts_of(folder, MANIFEST), *_parts_of(folder, _own(name)), *_parts_of(folder, _begun(name)))
    former = [part for part in dict.fromkeys(found) if _is_by(name, part) and part not in parts]
    _write_parts(folder, _begun(name), [*former, *parts])
    return former


def end(folder: Folder, name: str) -> None:
    """Take the note of :func:`begin` away: nothing is left to be removed."""
    folder.discard(_begun(name))


def publish(folder: Folder, name: str, parts: Sequence[str]) -> None:
    """Make these the parts of a writer; those of other writers stay."""
    _write_parts(folder, _own(name), parts)
    _write_manifest(folder)


def _begun(writer: str) -> str:
    return f"{_BEGUN}{writer}.json"


def _own(writer: str) -> str:
    return f"{_WRITER}{writer}.json"


def _write_manifest(folder: Folder) -> None:
    """
    Name the parts of all writers in the manifest.

    Other writers may share the folder, and write the manifest at the same time. Each leaves a file with its own parts
    first, and looks again after it has written: whoever writes last has seen what all others left.
    """
    # Comes to rest as soon as nobody else writes at the same moment.
    for _ in range(_LOOKS):
        writers = [name for name in folder.names() if name.startswith(_WRITER)]
        names = [name.removeprefix(_WRITER).removesuffix(".json") for name in writers]
        known = _parts_of(folder, MANIFEST)
        # A version before this one left no such files.
        parts = [part for part in known if not any(_is_by(name, part) for name in names)]
        for writer in writers:
            parts += _parts_of(folder, writer)
        if sorted(parts) == known:
            return
        _write_parts(folder, MANIFEST, parts)
    raise GeminiBatchError(f"{folder.path(MANIFEST)} is being written by others again and again; retry later.")


def _is_by(writer: str, part: str) -> bool:
    return part.startswith(f"{writer}-")


def _write_parts(folder: Folder, name: str, parts: Sequence[str]) -> None:
    with AtomicFile(folder.path(name)) as out:
        out.write(json.dumps({"version": 1, "parts": sorted(parts)}, indent=1).encode())


def _parts_of(folder: Folder, name: str) -> list[str]:
    content = folder.read(name)
    if content is None:
        return []
    try:
        return [str(part) for part in json.loads(content)["parts"]]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{folder.path(name)} was not written by this provider; remove it.") from None


def parts_in(place: str) -> list[str] | None:
    """Return the parts that make up a folder which a run has written; None if it is no such folder."""
    folder = Folder(place)
    if folder.read(MANIFEST) is None:
        return None
    return [folder.path(part) for part in _parts_of(folder, MANIFEST)]
