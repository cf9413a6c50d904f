# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_gemini_batch.errors import ConfigurationError, InputNotFoundError
from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.files.paths import open_read
from airflow_provider_gemini_batch.landing.join import land
from airflow_provider_gemini_batch.rows.inline_results import iter_inline_results


def good(key: str, text: str = "ok", tokens: int = 2) -> bytes:
    answer = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
    return json.dumps(
        {"key": key, "response": {"candidates": [answer], "usageMetadata": {"totalTokenCount": tokens}}}
    ).encode()


def bad(key: str, message: str = "no") -> bytes:
    return json.dumps({"key": key, "error": {"code": 3, "message": message}}).encode()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def source(tmp_path: Path, keys: list[str]) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(json.dumps({"key": key, "prompt": "x"}).encode() + b"\n" for key in keys))
    return path


def test_shuffled_results_land_in_input_order_with_a_manifest_that_adds_up(tmp_path: Path) -> None:
    keys = [f"k{n}" for n in range(10_000)]
    failed = set(random.Random(7).sample(keys, 37))
    lines = [bad(key) if key in failed else good(key) for key in keys]
    random.Random(8).shuffle(lines)
    manifest = land(
        lines, tmp_path / "out.jsonl", input_path=source(tmp_path, keys), errors_path=tmp_path / "errors.jsonl"
    )
    landed = rows_of(tmp_path / "out.jsonl")
    assert [row["key"] for row in landed] == keys
    assert {row["key"] for row in landed if row["status"] == "failed"} == failed
    assert (manifest.total, manifest.succeeded, manifest.failed, manifest.missing) == (10_000, 9_963, 37, 0)
    assert manifest.usage == {"totalTokenCount": 2 * 9_963}
    assert manifest.first_errors == [{"code": 3, "message": "no", "count": 37}]
    assert [row["key"] for row in rows_of(tmp_path / "errors.jsonl")] == [key for key in keys if key in failed]


def test_missing_repeated_and_unknown_rows_are_named(tmp_path: Path) -> None:
    lines = [good("a"), good("a", "again"), bad("b"), good("b", "second"), good("stranger"), b'{"key": "d", "respo']
    manifest = land(
        lines,
        tmp_path / "out.jsonl",
        input_path=source(tmp_path, ["a", "b", "c", "d"]),
        errors_path=tmp_path / "err.jsonl",
    )
    landed = rows_of(tmp_path / "out.jsonl")
    assert [(row["key"], row["status"], row["text"]) for row in landed] == [
        ("a", "succeeded", "ok"),
        ("b", "succeeded", "second"),
        ("c", "missing", None),
        ("d", "failed", None),
    ]
    assert manifest.total == 4
    assert (manifest.succeeded, manifest.failed, manifest.missing) == (2, 1, 1)
    assert manifest.missing_keys == ["c"]
    assert (manifest.repeated, sorted(manifest.repeated_keys)) == (2, ["a", "b"])
    assert (manifest.unknown, manifest.unknown_keys) == (1, ["stranger"])
    assert manifest.usage == {"totalTokenCount": 4}
    assert {row["key"] for row in rows_of(tmp_path / "err.jsonl")} == {"c", "d", "stranger"}


def test_unreadable_lines_are_counted_by_line_number(tmp_path: Path) -> None:
    lines = [good("a"), b"<html>", b'{"response": {"candidates": [']
    alone = land(lines, tmp_path / "alone.jsonl")
    assert (alone.total, alone.failed, alone.unreadable_lines) == (3, 2, [2, 3])
    joined = land(lines, tmp_path / "joined.jsonl", input_path=source(tmp_path, ["a", "b"]))
    assert (joined.total, joined.missing, joined.failed) == (2, 1, 0)
    assert joined.unreadable_lines == [2, 3]


@pytest.mark.parametrize("garbled", [b"caf\xe9", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3"])
@pytest.mark.parametrize("form", ["key first", "key last", "inline", "error", "vector"])
def test_a_result_that_is_not_utf_8_is_no_success(tmp_path: Path, garbled: bytes, form: str) -> None:
    answer = b'{"candidates": [{"content": {"parts": [{"text": "%b"}]}, "finishReason": "STOP"}]}' % garbled
    lines: Any = [
        {
            "key first": b'{"key": "a", "response": %b}' % answer,
            "key last": b'{"response": %b, "key": "a"}' % answer,
            "error": b'{"key": "a", "error": {"code": 3, "message": "%b"}}' % garbled,
            "vector": b'{"key": "a", "response": {"embedding": {"values": [1]}, "modelVersion": "%b"}}' % garbled,
        }.get(form, b""),
        good("b", "caf\u00e9"),
    ]
    if form == "inline":
        entry = b'{"response": %b, "metadata": {"key": "a"}}, {"response": %b, "metadata": {"key": "b"}}'
        whole = b'{"metadata": {"output": {"inlinedResponses": {"inlinedResponses": [%b]}}}}'
        lines = iter_inline_results(
            io.BytesIO(whole % (entry % (answer, answer.replace(garbled, "caf\u00e9".encode()))))
        )
    manifest = land(lines, tmp_path / "out.jsonl", input_path=source(tmp_path, ["a", "b"]))
    assert (manifest.succeeded, manifest.failed, manifest.missing) == (1, 1, 0)
    first, second = rows_of(tmp_path / "out.jsonl")
    assert (first["key"], first["status"], second["text"]) == ("a", "failed", "caf\u00e9")
    assert "cannot be read" in first["error"]["message"]


def test_a_key_that_is_not_utf_8_is_no_key(tmp_path: Path) -> None:
    whole = b'{"inlinedResponses": {"inlinedResponses": [{"response": {}, "metadata": {"key": "\xe9"}}]}}'
    for lines in ([good("a").replace(b'"a"', b'"\xe9"')], iter_inline_results(io.BytesIO(whole))):
        manifest = land(lines, tmp_path / "out.jsonl")
        assert (manifest.failed, manifest.unreadable) == (1, 1)


WRITER = """
import sys, time
from airflow_provider_gemini_batch.files.atomic import AtomicFile
with AtomicFile(sys.argv[1]) as out:
    out.write(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def parts(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix == ".part"}


def test_a_landing_removes_what_killed_ones_left_and_nothing_of_those_that_go_on(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with AtomicFile(output) as going_on, AtomicFile(tmp_path / "else.jsonl"):
        going_on.write(b"theirs")
        living = parts(tmp_path)
        with subprocess.Popen([sys.executable, "-c", WRITER, str(output)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            land([good("a")], output)
            assert len(parts(tmp_path)) == 3, "its writer lives"
            process.kill()
        assert len(parts(tmp_path)) == 3
        land([good("b")], tmp_path / "else.jsonl")
        assert len(parts(tmp_path)) == 3, "it is another output's"
        land([good("a")], output)
        assert parts(tmp_path) == living
    assert output.read_bytes() == b"theirs"
    assert parts(tmp_path) == set()


def test_what_another_host_left_is_removed_after_a_week(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with AtomicFile(output) as out:
        mark = Path(out.name).name.removeprefix(".gemini-batch-")[:12]
    left = tmp_path / f".gemini-batch-{mark}-0123456789ab-x.part"
    left.write_bytes(b"half")
    land([good("a")], output)
    assert left.exists(), "not every network disk passes locks on"
    os.utime(left, (0, time.time() - 8 * 24 * 3600))
    land([good("a")], output)
    assert not left.exists()


def test_results_without_keys_are_joined_by_position(tmp_path: Path) -> None:
    lines = [json.dumps({"response": json.loads(good("x", f"text {n}"))["response"]}).encode() for n in range(3)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"contents": []}\n' * 3)
    land(lines, tmp_path / "out.jsonl", input_path=path)
    assert [row["text"] for row in rows_of(tmp_path / "out.jsonl")] == ["text 0", "text 1", "text 2"]


def test_a_download_that_breaks_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old")

    def broken() -> Any:
        yield good("a")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        land(broken(), out, errors_path=tmp_path / "errors.jsonl")
    assert os.listdir(tmp_path) == ["out.jsonl"]
    assert out.read_text() == "old"


def test_no_result_is_fetched_when_the_input_is_not_there(tmp_path: Path) -> None:
    results: Any = (pytest.fail("a result was asked for") for _ in range(1))
    with pytest.raises(InputNotFoundError, match=r"There is no file .* on host .*[Ee]very worker"):
        land(results, tmp_path / "out.jsonl", input_path=tmp_path / "nowhere.jsonl")


def test_output_over_its_own_input_is_refused(tmp_path: Path) -> None:
    path = source(tmp_path, ["a"])
    with pytest.raises(ConfigurationError, match="different files"):
        land([], path, input_path=path)


def test_object_storage_is_written_and_read_whole(tmp_path: Path) -> None:
    place = f"memory://landing/{tmp_path.name}/out.jsonl"
    # Airflow 3 has it elsewhere than 2.11.
    store = "airflow.sdk.io.store" if importlib.util.find_spec("airflow.sdk") else "airflow.io.store"
    attach = importlib.import_module(store).attach
    from fsspec.implementations.memory import MemoryFileSystem

    attach("memory", fs=MemoryFileSystem())
    with AtomicFile(place, workdir=str(tmp_path)) as out:
        out.write(b"a\nb\n")
    with open_read(place) as stream:
        assert list(stream) == [b"a\n", b"b\n"]
    assert os.listdir(tmp_path) == []


def test_a_scheme_without_file_system_names_the_package() -> None:
    with pytest.raises(ConfigurationError, match="install"):
        open_read("nosuchscheme://bucket/key")


def test_an_input_that_cannot_be_joined_is_named_and_nothing_appears(tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text('{"key": "a", "prompt": "b"}\nnot json\n')
    with pytest.raises(ConfigurationError) as caught:
        land([good("a")], out, input_path=rows)
    assert str(caught.value).startswith(f"{rows}: line 2: ")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    keys=st.lists(
        st.text(min_size=1, max_size=8).filter(lambda key: not key.startswith("afgb:")),
        unique=True,
        min_size=1,
        max_size=30,
    ),
)
def test_every_input_row_has_exactly_one_line_in_order_whatever_comes_back(
    data: st.DataObject, keys: list[str]
) -> None:
    try:
        keys = [key for key in keys if key.encode()]
    except UnicodeEncodeError:
        return
    came = data.draw(st.lists(st.tuples(st.sampled_from([*keys, "?stranger?"]), st.booleans()), max_size=60))
    lines = [good(key) if usable else bad(key) for key, usable in came]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out.jsonl"
        manifest = land(lines, out, input_keys=lambda: keys)
        landed = [json.loads(line) for line in out.read_bytes().split(b"\n") if line]
    assert [row["key"] for row in landed] == keys
    usable = {key for key, is_usable in came if is_usable}
    back = {key for key, _ in came}
    for row in landed:
        key = row["key"]
        assert row["status"] == ("succeeded" if key in usable else "failed" if key in back else "missing")
    assert manifest.total == len(keys) == sum(getattr(manifest, name) for name in ("succeeded", "failed", "missing"))
    assert manifest.usage.get("totalTokenCount", 0) == 2 * manifest.succeeded
    assert manifest.total - manifest.missing + manifest.repeated + manifest.unknown == len(came)
