# SPDX-License-Identifier: Apache-2.0
"""Images in a row, as addresses that the browser shows without asking anybody: ``data:image/png;base64,...``."""

# They stand in answers and requests as `{"inlineData": {"mimeType": ..., "data": ...}}` and in columns of a user as
# such an address. Only four types of picture, whose first bytes say the same, and only so many bytes: no SVG, which is
# markup.

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 6
"""Images of one row that are shown."""

MAX_CHARACTERS = 1_400_000
"""Of one image in base64: a megabyte."""

_MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
_HEAD = re.compile(r"data:(image/[a-z]+)")
_LONGEST_HEAD = 40
_DEEPEST = 16


def images_in(value: Any) -> list[str]:
    """Return the images that a value holds, at any depth, as addresses for ``src``."""
    found: list[str] = []
    for kind, data in _pieces(value, 0):
        address = _address(kind, data)
        if address and address not in found:
            found.append(address)
        if len(found) == MOST:
            break
    return found


def without_images(value: Any) -> Any:
    """Return a value in which the data of images are named by their type and size."""
    if isinstance(value, dict):
        if (piece := _inline(value)) is not None:
            return f"[{piece[0]}, {len(piece[1]) * 3 // 4:,} bytes]"
        return {name: without_images(each) for name, each in value.items()}
    if isinstance(value, list) and any(isinstance(each, (dict, list, str)) for each in value):
        return [without_images(each) for each in value]
    if isinstance(value, str) and value.startswith("data:image/") and ";base64," in value[:60]:
        return f"[{value[5 : value.index(';')]}, {len(value) * 3 // 4:,} bytes]"
    return value


def _pieces(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        if (piece := _inline(value)) is not None:
            yield piece
            return
        for each in value.values():
            yield from _pieces(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, (dict, list, str)):
                yield from _pieces(each, depth + 1)
    elif isinstance(value, str) and value.startswith("data:image/"):
        # No expression runs over what a row holds: one that goes back and forth would stop the whole server.
        head, _, data = value.partition(";base64,")
        if data and len(head) <= _LONGEST_HEAD and (match := _HEAD.fullmatch(head)):
            yield match[1], data


def _inline(value: dict[Any, Any]) -> tuple[str, str] | None:
    kind, data = value.get("mimeType") or value.get("mime_type"), value.get("data")
    return (kind, data) if isinstance(kind, str) and isinstance(data, str) and kind.startswith("image/") else None


def _address(kind: str, data: str) -> str:
    """Return the address of an image, empty for what is none."""
    if kind not in _MAGIC or len(data) > MAX_CHARACTERS:
        return ""
    try:
        # Both alphabets: the API writes one and accepts the other.
        content = base64.b64decode(data.translate({ord("-"): "+", ord("_"): "/"}), validate=False)
    except (binascii.Error, ValueError):
        return ""
    if not content.startswith(_MAGIC[kind]) or (kind == "image/webp" and content[8:12] != b"WEBP"):
        return ""
    # Encoded anew: what stands in the page is our own text, whatever stood in the row.
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
