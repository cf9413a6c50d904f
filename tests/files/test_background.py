# SPDX-License-Identifier: Apache-2.0
"""Digests beside other work, and files that settle early: the same bytes, faults that arrive, threads that end."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.files import background as overlap
from airflow_provider_gemini_batch.files.atomic import AtomicFile, DiskFullError, temporary_files
from airflow_provider_gemini_batch.files.background import BackgroundHash


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("gemini-batch")}


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    before = ours()
    yield
    assert ours() <= before


@pytest.mark.parametrize("block", [1, 1000, 1 << 16, 1 << 23])
def test_a_digest_made_behind_is_that_of_all_bytes(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    digest = hashlib.sha256()
    lines = [os.urandom(size % 5000) for size in range(0, 2000, 7)]
    monkeypatch.setattr(overlap, "DIGEST_BYTES", block)
    with contextlib.closing(BackgroundHash(digest)) as behind:
        for line in lines:
            behind.update(line)
        behind.finish()
    assert digest.hexdigest() == hashlib.sha256(b"".join(lines)).hexdigest()


def test_a_digest_of_nothing_is_that_of_nothing() -> None:
    digest = hashlib.sha256()
    with contextlib.closing(BackgroundHash(digest)) as behind:
        behind.finish()
    assert digest.hexdigest() == hashlib.sha256().hexdigest()


def test_what_goes_to_the_disk_early_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "SETTLE_BYTES", 3 << 20)
    pieces = [os.urandom(size) for size in (5 << 20, 1, 700_000, 2 << 20, 4 << 20, 10)]
    with AtomicFile(str(tmp_path / "out")) as out:
        for piece in pieces:
            out.write(piece)
    assert (tmp_path / "out").read_bytes() == b"".join(pieces)


def test_a_full_disk_fails_the_writer_and_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with pytest.raises(OSError) as caught, AtomicFile(str(target)) as out:  # noqa: PT012 - either line may be told
        # A descriptor that answers as a full disk does.
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, out._raw.fileno())
        os.close(full)
        for _ in range(20):
            out.write(b"x" * (1 << 20))
    assert caught.value.errno == errno.ENOSPC
    assert str(target) in str(caught.value)
    assert "bytes" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_the_size_of_files_names_place_bytes_and_itself(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DiskFullError) as caught, AtomicFile(str(target)) as out:
            out.write(bytes(8 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"File too large in '{tmp_path}' after 1,000,000 bytes for '{target}'" in str(caught.value)
    assert "ulimit -f" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_fault_between_writes_leaves_no_file_and_no_thread(tmp_path: Path) -> None:
    with pytest.raises(KeyError), AtomicFile(str(tmp_path / "out")) as out:  # noqa: PT012 - the write is the point
        out.write(b"half")
        raise KeyError("somebody else's fault")
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_disk_names_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match=r"TMPDIR") as caught, temporary_files("the answers of batches/x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "batches/x" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(old: str, new: str) -> None:
        calls.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with AtomicFile(tmp_path / "out") as out:
        out.write(b"rows")
    assert calls[calls.index("name") - 1 :] == ["file", "name", "folder"]
