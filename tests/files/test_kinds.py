# SPDX-License-Identifier: Apache-2.0
"""Files of another kind are named for what they are, with the way out; gzip is taken."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path

import pytest

from airflow_provider_gemini_batch.api.backends import backend_for
from airflow_provider_gemini_batch.client.prepare import prepared
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.kinds import open_lines
from airflow_provider_gemini_batch.lifecycle.request import JobRequest

BACKEND = backend_for(settings_from_connection(password="k"))
ROW = '{"key": "a", "prompt": "Grüße"}\n'


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    request = JobRequest("generate", "gemini-3.5-flash-lite", input_path=path)
    with pytest.raises(ConfigurationError) as caught, prepared(request, BACKEND, lambda _: None):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "name", "way_out"),
    [
        (codecs.BOM_UTF16_LE + ROW.encode("utf-16-le"), "UTF-16", "Set-Content -Encoding utf8"),
        (codecs.BOM_UTF16_BE + ROW.encode("utf-16-be"), "UTF-16", "iconv"),
        (ROW.encode("utf-16-le"), "UTF-16 without", "iconv"),
        (ROW.encode("utf-16-be"), "UTF-16 without", "iconv"),
        (codecs.BOM_UTF32_LE + ROW.encode("utf-32-le"), "UTF-32", "iconv -f UTF-32"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd", "zstd -d"),
        (bytes(5000), "line 1: not JSON at column 1", ""),  # what a crash, or a sparse file, leaves
        (b'{"key": "a"' + bytes(5000), "line 1: not JSON at column 12", ""),
        (b"BZh91AY", "bzip2", "bunzip2"),
        (b"\xfd7zXZ\x00\x00", "xz", "xz -dc"),
        (b"PAR1\x15\x04", "Parquet", "duckdb"),
        (b"PK\x03\x04\x14\x00", "xlsx", "CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "xls", "CSV"),
        (b"SQLite format 3\x00", "SQLite", "JSONL"),
        (b"\x7fELF\x02\x00\x01", "binary", "JSONL"),
        (b'[{"key": "a", "prompt": "x"}]\n', "not a list", "jq -c '.[]'"),
        (b'[\n{"key": "a", "prompt": "x"},\n{"key": "b", "prompt": "y"}\n]\n', "several lines", "jq -c '.[]'"),
        (b'{\n  "key": "a",\n  "prompt": "x"\n}\n', "several lines", "jq -c ."),
        (b"key,prompt\na,x\n", "CSV", "docs/csv.md"),
        (b"id,review\n1,x\n", "CSV", "RunBatchOperator"),
        (b'"key";"prompt"\n"a";"x"\n', "CSV", "docs/csv.md"),
        (b"key\tprompt\na\tx\n", "CSV", "docs/csv.md"),
        (b"<!DOCTYPE html>\n<html>\n", "HTML", "fetch"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_of_another_kind_is_named_once(tmp_path: Path, content: bytes, name: str, way_out: str) -> None:
    said = refusal(tmp_path / "in.jsonl", content)
    assert name in said
    assert way_out in said
    assert "\n" not in said


def test_gzip_is_taken_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(gzip.compress(ROW.encode()))
    with prepared(JobRequest("generate", "m", input_path=path), BACKEND, lambda _: None) as source:
        assert source.rows == 1
        assert source.file is not None
        assert b"Gr\xc3\xbc\xc3\x9fe" in source.file.read(0, source.file.size)


def test_gzip_gives_every_byte_in_reads_of_any_size(tmp_path: Path) -> None:
    content = b"".join(b'{"key": "%d"}\n' % number for number in range(200_000))
    path = tmp_path / "in.gz"
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    stream, is_as_it_is = open_lines(path)
    with stream:
        assert not is_as_it_is
        assert stream.read(7) == content[:7]
        assert stream.read() == content[7:]


def test_a_cut_off_gzip_file_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(ROW.encode() * 1000)
    assert "cut off or damaged" in refusal(tmp_path / "in.jsonl", packed[: len(packed) // 2])


def test_what_lies_inside_gzip_is_named(tmp_path: Path) -> None:
    said = refusal(tmp_path / "in.jsonl", gzip.compress(codecs.BOM_UTF16_LE + ROW.encode("utf-16-le")))
    assert "UTF-16 inside gzip" in said


def test_a_plain_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + ROW.encode())
    stream, is_as_it_is = open_lines(path)
    with stream, io.BytesIO(path.read_bytes()) as same:
        assert is_as_it_is
        assert stream.read() == same.read()
