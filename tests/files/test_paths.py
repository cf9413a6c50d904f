# SPDX-License-Identifier: Apache-2.0
"""Which text is a local path, which a URI, and which neither; and what may be read or written there."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_gemini_batch.compat import ObjectStoragePath
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.files.paths import local_path, normalise_path, open_read


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
        ("C:\\data\\rows.csv", "path of Windows"),
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
    assert normalise_path(ObjectStoragePath("/a")) == "/a"


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


# --- links of strangers, permissions ---------------------------------------------------------------------------------

STRANGER = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file another user's")


def open_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@as_root
@pytest.mark.parametrize("through", ["the file", "a folder on the way"])
def test_output_does_not_go_through_a_strangers_link(tmp_path: Path, through: str) -> None:
    folder, mine = open_folder(tmp_path), tmp_path / "mine"
    mine.mkdir()
    (mine / "out.jsonl").write_text("precious")
    link = folder / ("out.jsonl" if through == "the file" else "sub")
    link.symlink_to(mine / "out.jsonl" if through == "the file" else mine)
    os.lchown(link, STRANGER, STRANGER)
    target = link if through == "the file" else link / "out.jsonl"
    with pytest.raises(ConfigurationError, match="another user"):
        AtomicFile(target)
    assert (mine / "out.jsonl").read_text() == "precious"
    assert os.listdir(mine) == ["out.jsonl"]


@as_root
def test_no_folder_is_made_through_a_strangers_link(tmp_path: Path) -> None:
    folder, mine = open_folder(tmp_path), tmp_path / "mine"
    mine.mkdir()
    link = folder / "_gemini_batch"
    link.symlink_to(mine)
    os.lchown(link, STRANGER, STRANGER)
    with pytest.raises(ConfigurationError, match="another user"):
        Folder(str(link / "dag" / "task")).create("note", b"x")
    assert os.listdir(mine) == []


@as_root
@pytest.mark.parametrize("case", ["our own link", "the folder owner's link", "no sticky bit"])
def test_output_goes_through_a_trusted_link(tmp_path: Path, case: str) -> None:
    folder = open_folder(tmp_path)
    (folder / "link.jsonl").symlink_to("../real.jsonl")
    if case != "our own link":
        os.lchown(folder / "link.jsonl", STRANGER, STRANGER)
    if case == "the folder owner's link":
        os.chown(folder, STRANGER, STRANGER)
    if case == "no sticky bit":
        folder.chmod(0o755)
    with AtomicFile(folder / "link.jsonl") as out:
        out.write(b"new")
    assert (tmp_path / "real.jsonl").read_bytes() == b"new"
    assert (folder / "link.jsonl").is_symlink()


@pytest.mark.parametrize(
    ("umask", "setting", "mode"), [(0o022, "", 0o644), (0o002, "", 0o664), (0o077, "", 0o600), (0o022, "0640", 0o640)]
)
def test_output_follows_the_umask_and_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, setting: str, mode: int
) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__OUTPUT_MODE", setting)
    before = os.umask(umask)
    try:
        with AtomicFile(tmp_path / "out") as out:
            out.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


def test_the_setting_narrows_a_file_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").touch(0o644)
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__OUTPUT_MODE", "600")
    with AtomicFile(tmp_path / "out") as out:
        out.write(b"x")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


@pytest.mark.parametrize("setting", ["rw", "0o999", "0777", "7"])
def test_a_mode_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("AIRFLOW__GEMINI_BATCH__OUTPUT_MODE", setting)
    with pytest.raises(ConfigurationError, match="output_mode"):
        AtomicFile(tmp_path / "out")
