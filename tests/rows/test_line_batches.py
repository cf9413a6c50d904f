# SPDX-License-Identifier: Apache-2.0
"""Lines of any length are read in blocks, and one without end is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.rows import line_batches
from airflow_provider_gemini_batch.rows.line_batches import LineTooLongError, line_blocks


def test_a_line_over_the_bound_is_refused_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_batches, "MAX_LINE_BYTES", 100)
    blocks = line_blocks([b"a\nb\n", b"c" * 60, b"c" * 60, b"never read"])
    assert next(blocks) == [b"a\n", b"b\n"]
    with pytest.raises(LineTooLongError, match="line 3: it is longer than 100 bytes"):
        next(blocks)


def test_a_line_at_the_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_batches, "MAX_LINE_BYTES", 100)
    assert list(line_blocks([b"c" * 60, b"c" * 39 + b"\n"])) == [[b"c" * 99 + b"\n"]]


READ = """
import resource, sys
from airflow_provider_gemini_batch.rows.line_batches import LineTooLongError, read_in_blocks
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with open(sys.argv[1], "rb") as file:
        list(read_in_blocks(file, lambda lines: lines))
except LineTooLongError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_sparse_file_without_lines_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jsonl"
    path.touch()
    os.truncate(path, 3 << 30)
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300
