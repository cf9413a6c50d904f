# SPDX-License-Identifier: Apache-2.0
"""Answers as they are kept between a job's end and the output: judged, validated, in two files."""

# `answers-*.jsonl.zst` holds one record a row with what the output shows of it; its values are what the validator
# returned, re-encoded, so that no engine ever parses a model's own text. `outcomes-*.parquet` holds what decides over a
# row: number, digest, status, whether it may be asked again, cost. Both are written in one pass over a job's lines.

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec

from airflow_provider_gemini_batch.rows.keys import KEY_PREFIX
from airflow_provider_gemini_batch.rows.result_row import ResultRow
from airflow_provider_gemini_batch.rows.results import read_row
from airflow_provider_gemini_batch.run.column_types import SchemaBreach
from airflow_provider_gemini_batch.run.digest import read_wire_key
from airflow_provider_gemini_batch.run.plan import LASTING_FINISH, STATUSES, is_passing
from airflow_provider_gemini_batch.run.tables import copy_to_parquet, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.money import Prices
    from airflow_provider_gemini_batch.run.plan import Tier
    from airflow_provider_gemini_batch.run.row_numbers import AskedRows
    from airflow_provider_gemini_batch.run.spec import RunSpec

SOURCES = ("batch", "flex", "reused", "duplicate")
NO_SOURCE = len(SOURCES)
"""Place of a record's source where nobody was asked: the column is null."""

MAX_MESSAGE = 500

OUTCOME_COLUMNS: Mapping[str, str] = {
    "n": "BIGINT", "d": "VARCHAR", "s": "UTINYINT", "passing": "BOOLEAN", "asked": "BOOLEAN", "cost": "DOUBLE",
}  # fmt: skip

RECORD_COLUMNS: Mapping[str, str] = {
    "n": "BIGINT", "q": "UTINYINT", "s": "UTINYINT", "c": "INTEGER", "m": "VARCHAR", "f": "VARCHAR", "w": "VARCHAR",
    "p": "BIGINT", "o": "BIGINT", "t": "BIGINT", "k": "BIGINT", "j": "VARCHAR", "e": "VARCHAR",
}  # fmt: skip
"""Members of a record besides its values ``v0``, ``v1``, ...: their types as the engine reads them."""


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """
    One row's answer at rest.

    :param q: Index in :data:`SOURCES`.
    :param s: Index in :data:`~.plan.STATUSES`.
    :param c, m, f: Error code, message and finish reason.
    :param w: Model version. *p*, *o*, *t*, *k*: tokens of prompt, output, thoughts, cache.
    :param j, e: Job and time of the answer.
    :param v: Values of the answer's columns.
    """

    n: int
    q: int
    s: int
    v: list[Any] = []
    c: int | None = None
    m: str | None = None
    f: str | None = None
    w: str | None = None
    p: int | None = None
    o: int | None = None
    t: int | None = None
    k: int | None = None
    j: str | None = None
    e: str | None = None


class _Usage(msgspec.Struct, gc=False):
    promptTokenCount: int | None = None
    candidatesTokenCount: int | None = None
    thoughtsTokenCount: int | None = None
    cachedContentTokenCount: int | None = None
    tokenCount: int | None = None


class _Version(msgspec.Struct, gc=False):
    modelVersion: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_usage = msgspec.json.Decoder(_Usage).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
_decode_version = msgspec.json.Decoder(_Version).decode


class AnswerWriter:
    """
    Writes records and outcomes, and counts them.

    :param folder: Local, for what is being written.
    :param columns: Number of the answer's columns.
    """

    def __init__(self, folder: str, name: str) -> None:
        import zstandard

        self._answers = os.path.join(folder, f"{name}.jsonl.zst")
        self._csv = os.path.join(folder, f"{name}.csv")
        self._raw = open(self._answers, "wb")  # noqa: SIM115 - closed by finish
        self._packed: Any = zstandard.ZstdCompressor(level=3).stream_writer(self._raw)
        # Plain lines for now: the engine makes Parquet of all of them in one query (`finish`).
        self._outcomes = open(self._csv, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by finish
        self._lines: list[bytes] = []
        self._size = 0
        self.bytes = 0
        self.longest = 0
        self.counts: Counter[str] = Counter()
        self.cost = 0.0
        self.cost_squares = 0.0
        self.cost_unknown = 0
        self.tokens = [0, 0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk, say, which is why this ends
            self._packed.close()
        self._raw.close()
        self._outcomes.close()

    def add(self, record: Record, digest: str, *, passing: bool, cost: float | None, asked: bool = True) -> None:
        """Take a record in. *asked*: whether this run asked for it, which counts as an attempt."""
        line = _record_line(record)
        self._lines.append(line)
        self._size += len(line)
        self.bytes += len(line)
        self.longest = max(self.longest, len(line))
        self.counts[STATUSES[record.s]] += 1
        if asked and cost is None:
            self.cost_unknown += 1
        self.cost += cost or 0.0
        self.cost_squares += (cost or 0.0) ** 2
        self.tokens[0] += record.p or 0
        self.tokens[1] += (record.o or 0) + (record.t or 0)
        shown = b"" if cost is None else b"%r" % cost
        self._outcomes.write(b"%d,%b,%d,%d,%d,%b\n" % (record.n, digest.encode(), record.s, passing, asked, shown))
        if self._size >= 1 << 20:
            self._flush()

    def _flush(self) -> None:
        self._packed.write(b"".join(self._lines))
        self._lines.clear()
        self._size = 0

    def finish(self, checkpoint: Checkpoint, engine: DuckDBPyConnection, narrow: str | None = None) -> dict[str, Any]:
        """
        Publish both files, and return what a note needs to say of them.

        :param narrow: Local narrow file to take the digests from, where they were not given.
        """
        self._flush()
        self._packed.close()
        self._raw.close()
        self._outcomes.close()
        path = f"{self._csv}.parquet"
        columns = ", ".join(f"{text(name)}: {text(sql)}" for name, sql in OUTCOME_COLUMNS.items())
        read = f"read_csv({text(self._csv)}, auto_detect=false, header=false, nullstr='', columns={{{columns}}})"
        # As bytes, half as long as the hex digits: there is one for each row of each round.
        query = f"SELECT n, unhex(d) AS d, s, passing, asked, cost FROM {read}"
        if narrow is not None:
            query = f"SELECT n, x.d, s, passing, asked, cost FROM {read} JOIN read_parquet({text(narrow)}) x USING (n)"
        copy_to_parquet(engine, query, path, bytes_a_row=40)
        # Both files are there before a note names them: a note that is seen is one whose files can be read.
        facts = {
            "answers": checkpoint.put("answers", ".jsonl.zst", self._answers),
            "outcomes": checkpoint.put("outcomes", ".parquet", path),
            "bytes": self.bytes,
            "longest": self.longest,
            "counts": dict(self.counts),
            "cost": self.cost,
            "cost_squares": self.cost_squares,
            "cost_unknown": self.cost_unknown,
            "tokens": self.tokens,
        }
        for name in (self._answers, self._csv, path):
            os.unlink(name)
        return facts


def _record_line(record: Record) -> bytes:
    """Return a record with its number first and its values as members of their own."""
    # The number comes first, so that `buckets.number_of` finds it without decoding the line, and each value is a member
    # of its own, so that the engine reads it as a column with a type.
    values = record.v
    record.v = []
    body = _encode(record)
    record.v = values
    if not values:
        return body + b"\n"
    shown = b",".join(b'"v%d":%b' % (place, _encode(value)) for place, value in enumerate(values))
    return body[:-1] + b"," + shown + b"}\n"


class Judge:
    """
    Decides what a result line means for a row of the run.

    :param spec: What was asked.
    :param prices: For the cost of an answer.
    """

    def __init__(self, spec: RunSpec, prices: Prices, *, tier: Tier, job_name: str | None, when: str | None) -> None:
        self._spec = spec
        self._prices = prices
        self._tier = tier
        self._source = SOURCES.index(tier)
        self._job = job_name
        self._when = when
        self.replaced_surrogates = 0
        self.single_calls: dict[str, float] = {}
        """Dollars that the answers would have cost in single calls, by the version that answered."""

    def record(self, n: int, row: ResultRow) -> tuple[Record, float | None]:
        """Return a row's record, and the dollars it cost."""
        status, values, code, message = self._verdict(row)
        version = self._version(row)
        record = Record(
            n=n, q=self._source, s=STATUSES.index(status), v=values, c=code, m=_short(message),
            f=row.finish_reason, w=version, j=self._job, e=self._when,
        )  # fmt: skip
        cost = self._add_usage(record, row, version)
        return record, cost

    def _verdict(self, row: ResultRow) -> tuple[Any, list[Any], int | None, str | None]:
        if row.status != "succeeded":
            error = row.error or {}
            code = error.get("code")
            return row.status, [], code if isinstance(code, int) and code else None, str(error.get("message") or "")
        if self._spec.kind == "embed":
            return self._vector(row)
        answer = self._text(row.text)
        cut = row.finish_reason in LASTING_FINISH
        why = "the answer is cut off: raise max_output_tokens in generation_config" if cut else ""
        if self._spec.schema is None:
            return ("invalid", [answer], None, why) if cut else ("succeeded", [answer], None, None)
        try:
            # Decoded by our own reader into the types of the columns: what a model wrote as text is never parsed by an
            # engine, whose guesses would differ from row to row.
            values = self._spec.schema.read(answer or "")
        except SchemaBreach as breach:
            return "invalid", [], None, why or f"the answer breaks the schema: {breach}"
        return "succeeded", values, None, None

    def _vector(self, row: ResultRow) -> tuple[Any, list[Any], int | None, str | None]:
        if row.embedding is None:
            return "failed", [], None, "the service returned no vector for this row"
        vector = msgspec.Raw(row.embedding)
        wanted = self._spec.output_dimensionality
        if wanted is not None and row.embedding.count(b",") + 1 != wanted:
            return "invalid", [], None, f"the vector has {row.embedding.count(b',') + 1} numbers instead of {wanted}"
        return "succeeded", [vector], None, None

    def _text(self, raw: bytes | None) -> str | None:
        if raw is None:
            return None
        try:
            found = _decode(raw)
        except (msgspec.MsgspecError, UnicodeError):
            # msgspec refuses half of a surrogate pair, which models do write; a text with one is kept, and the half
            # replaced.
            found = json.loads(raw)
        if isinstance(found, str):
            try:
                found.encode()
            except UnicodeEncodeError:
                self.replaced_surrogates += 1
                found = found.encode("utf-8", "replace").decode()
        return found if isinstance(found, str) else None

    def _version(self, row: ResultRow) -> str | None:
        if row.response is None:
            return None
        try:
            return _decode_version(row.response).modelVersion
        except (msgspec.MsgspecError, UnicodeError):
            return None

    def _add_usage(self, record: Record, row: ResultRow, version: str | None) -> float | None:
        if row.usage is None:
            # A row that ran without an answer may have no usage; a row that failed is not billed.
            return None if record.s == 0 else 0.0
        try:
            usage = _decode_usage(row.usage)
        except (msgspec.MsgspecError, UnicodeError):
            return None
        record.p = usage.promptTokenCount if usage.promptTokenCount is not None else usage.tokenCount
        record.o = usage.candidatesTokenCount
        record.t = usage.thoughtsTokenCount
        record.k = usage.cachedContentTokenCount
        facts = _decode_any(row.usage)
        found = self._prices.of_answer(version or self._spec.model, facts, tier=self._tier, when=self._when)
        if found.single is not None:
            name = version or "unknown"
            self.single_calls[name] = self.single_calls.get(name, 0.0) + found.single
        return found.paid


def _short(message: str | None) -> str | None:
    if not message:
        return None
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."


@dataclass
class Repeated:
    """How many lines of a job's result were of rows that a line before them was of."""

    lines: int = 0


_MISSING, _UNUSABLE, _USABLE = range(3)


def judged_lines(
    lines: Iterable[bytes | str | Mapping[str, Any]], expected: AskedRows, judge: Judge, repeated: Repeated
) -> Iterator[tuple[Record, str, float | None, bool]]:
    """
    Yield a record for each line that answers one of *expected*, then one for each row that no line answers.

    Of several lines of one row the first counts, unless it has no usable answer and a later one has.

    :param lines: A job's result lines, in any order.
    :param expected: The rows that the job was asked. A line with another digest does not count: an answer can never
        stand beside another prompt.
    :param repeated: Is told what it is about while the lines are read.
    :return: Record, digest, cost, and whether it is the row's first one: a row is asked once, whatever lines it has.
    """
    seen = bytearray(len(expected))
    for line in lines:
        row = read_row(line)
        key = read_wire_key((row.key or "").removeprefix(KEY_PREFIX))
        # Not by the row's number alone: the service was reported to answer in another order than asked, and with other
        # rows' keys (https://github.com/googleapis/python-genai/issues/1909).
        if key is None or expected.digest(key[0]) != bytes.fromhex(key[1]):
            continue
        place = expected.place(key[0]) or 0
        before = seen[place]
        repeated.lines += before != _MISSING
        if before == _USABLE:
            continue
        record, cost = judge.record(key[0], row)
        is_usable = record.s == 0
        seen[place] = _USABLE if is_usable else _UNUSABLE
        if before == _MISSING or is_usable:
            yield record, key[1], cost, before == _MISSING
    # Whatever the service lost becomes a row with a reason, never a row less.
    for place, (n, digest) in enumerate(expected):
        if seen[place] == _MISSING:
            record, _ = judge.record(n, ResultRow.missing(""))
            yield record, digest.hex(), 0.0, True


def whole_job_failed(
    status: str, code: int | None, message: str, expected: AskedRows, judge: Judge
) -> Iterator[tuple[Record, str, float | None, bool]]:
    """Yield a record for each row of a job that ended without answers."""
    for n, digest in expected:
        row = ResultRow("", "missing" if status == "missing" else "failed")
        row.error = {"code": code or 0, "message": message}
        record, _ = judge.record(n, row)
        yield record, digest.hex(), 0.0, True


def passing(record: Record) -> bool:
    """Say whether the row of a record is worth asking again."""
    return is_passing(STATUSES[record.s], record.c, record.f)
