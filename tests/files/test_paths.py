# SPDX-License-Identifier: Apache-2.0
"""Which text is a local path, which a URI, and which neither; and what may be read or written there."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.compat import ObjectStoragePath
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.paths import AtomicFile, local_path, open_read, place_of


@pytest.mark.parametrize(
    ("given", "local"),
    [
        ("/a/b c%20d", "/a/b c%20d"),
        (Path("/a/b"), "/a/b"),
        ("a:b/c", "a:b/c"),
        ("~/a", "/home/of/me/a"),
        (Path("~/a"), "/home/of/me/a"),
        ("file:///a/b c", "/a/b c"),
        ("FILE:///a", "/a"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("s3://c@b/~/a%20b", None),
    ],
)
def test_local_paths_are_told_from_uris(monkeypatch: pytest.MonkeyPatch, given: Any, local: str | None) -> None:
    monkeypatch.setenv("HOME", "/home/of/me")
    assert local_path(given) == local


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (None, "not None"),
        (5, "not 5"),
        (b"/a", "not b'/a'"),
        (["/a"], "not"),
        ("/a\0b", "NUL"),
        ("s3://b/a\0b", "NUL"),
        ("/a\ud800", "no path may"),
        (Path("s3://b/k"), "lacks a slash"),
        ("file://a.jsonl", "another machine"),
        ("file://there/a", "another machine"),
        ("file:///a%20b", "percent"),
    ],
)
def test_what_is_no_place_is_refused(given: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        local_path(given)
    with pytest.raises(ConfigurationError, match=says):
        open_read(given)
    with pytest.raises(ConfigurationError, match=says):
        AtomicFile(given)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_an_object_storage_path_is_a_place() -> None:
    assert place_of(ObjectStoragePath("/a")) == "/a"


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory", "device"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "it"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(place))
        listening.close()
    elif kind == "directory":
        place.mkdir()
    else:
        place = Path(os.devnull)
    with pytest.raises(ConfigurationError, match=f"{str(place)!r} is not a regular file"):
        open_read(place)


def test_a_name_that_no_file_can_have_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("a" * 300, "file/below", "loop", "loop/below"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            open_read(tmp_path / name)
    for name, why in (("a" * 300, ""), ("file/below", ".*/file is a file, no folder"), ("loop/below", "")):
        with pytest.raises(ConfigurationError, match=f"cannot be written: {why}"):
            AtomicFile(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]
