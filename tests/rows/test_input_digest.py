# SPDX-License-Identifier: Apache-2.0
"""The digests of an input tell a moved line from a changed one."""

from __future__ import annotations

import io
import os

import pytest

from airflow_provider_gemini_batch.rows import line_batches
from airflow_provider_gemini_batch.rows.input_digest import InputDigest, same_content, same_order

LINES = b'{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c"}\n'


def mark(data: bytes) -> str:
    digest = InputDigest()
    blocks = digest.watch(line_batches.file_blocks(io.BytesIO(data)))
    assert b"".join(line for block in blocks for line in block) == data
    return digest.mark()


@pytest.mark.parametrize(
    ("other", "order", "content"),
    [
        (LINES, True, True),
        (LINES.removesuffix(b"\n"), True, True),
        (LINES.replace(b"\n", b"\n\n"), True, True),
        (b"".join(sorted(LINES.splitlines(keepends=True), reverse=True)), False, True),
        (LINES.replace(b"a", b"x"), False, False),
        (LINES + b'{"prompt": "d"}\n', False, False),
    ],
    ids=["the same", "no last newline", "blank lines", "another order", "another prompt", "one more"],
)
def test_what_changed_is_told(other: bytes, order: bool, content: bool) -> None:
    assert same_order(mark(LINES), mark(other)) is order
    assert same_content(mark(LINES), mark(other)) is content


def test_digests_do_not_depend_on_how_a_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(os.urandom(40).hex().encode() + b"\n" for _ in range(200))
    marks = set()
    for size in (1, 7, 100, 1 << 20):
        monkeypatch.setattr(line_batches, "BLOCK_BYTES", size)
        marks.add(mark(data))
    assert len(marks) == 1


def test_line_ends_and_a_byte_order_mark_make_no_difference() -> None:
    one, other, mixed = InputDigest(), InputDigest(), InputDigest()
    one.add([b"a\n", b"b\n"])
    other.add([b"\xef\xbb\xbfa\r\n", b"b"])
    mixed.add([b"a\n", b"b\r\n"])
    assert one.mark() == other.mark() == mixed.mark()
