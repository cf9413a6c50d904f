# SPDX-License-Identifier: Apache-2.0
"""The output of a job on Vertex AI: objects below ``<prefix>/prediction-model-<creation time>Z/``, or a table."""

# Where the service agent may not write, the rows run all the same, and the job fails with code 7 and a
# `successfulCount`.

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from gemini_batch_emulator.answers import answers, filler
from gemini_batch_emulator.bigquery.store import table_store
from gemini_batch_emulator.clock import timestamp
from gemini_batch_emulator.errors import STATUS_WORDS
from gemini_batch_emulator.scripts import PROXY_PAGE, Ending
from gemini_batch_emulator.states import HTTP_OF_GRPC
from gemini_batch_emulator.storage.names import split_uri
from gemini_batch_emulator.storage.store import object_store
from gemini_batch_emulator.vertex.inputs import (
    AGENT,
    ImportedRows,
    Importer,
    JobFailure,
    bucket_exists,
    check_bucket,
)
from gemini_batch_emulator.vertex.models import is_legacy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.rows import Answer
    from gemini_batch_emulator.state import EmulatorState
    from gemini_batch_emulator.storage.store import ObjectStore, ObjectWriter

_encode = msgspec.json.Encoder().encode


class VertexRun:
    """What happens when a job begins and when it ends."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def start(self, job: Job) -> Ending | None:
        """Check the places and import the input; failing ends the job."""
        state = self._state
        try:
            target = job.resource["outputConfig"]
            if "gcsDestination" in target:
                # Only that the bucket is there: whether it may be written to shows when the first result is, hours
                # later.
                check_bucket(state, split_uri(target["gcsDestination"]["outputUriPrefix"])[0])
            else:
                output_table(state, job)
            Importer(state, job).run()
        except JobFailure as failure:
            return failure.ending
        return None

    def finish(self, job: Job, ending: Ending) -> Ending | None:
        """Write the answers of the rows that ran."""
        state = self._state
        target = job.resource["outputConfig"]
        if "bigqueryDestination" in target:
            try:
                write_table(state, job)
            except JobFailure as failure:
                return failure.ending
            return None
        prefix = target["gcsDestination"]["outputUriPrefix"].rstrip("/")
        # The service names it by the creation time alone, so that jobs of one moment with one prefix share it.
        directory = f"{prefix}/prediction-model-{timestamp(job.created, 6)}"
        job.output["outputInfo"] = {"gcsOutputDirectory": directory}
        bucket, folder = split_uri(directory)
        if bucket in state.config.unwritable_buckets or not bucket_exists(state, bucket):
            # Run and billed, and then thrown away.
            for _ in answers(state, job):
                pass
            return Ending(
                "FAILED",
                7,
                f"{AGENT} does not have storage.objects.create access to the Google Cloud Storage object. Permission "
                "'storage.objects.create' denied on resource (or it may not exist). "
                f"{directory}/predictions.jsonl",
                ending.share,
            )
        _Objects(state, job).write(bucket, folder)
        return None


class SeededRun(VertexRun):
    """A seeded job has no input to import, but writes its output as any other."""

    def start(self, job: Job) -> Ending | None:
        """Begin."""
        return None


class _Objects:
    """Writes the result objects of one job."""

    def __init__(self, state: EmulatorState, job: Job) -> None:
        self._state = state
        self._job = job

    def write(self, bucket: str, folder: str) -> None:
        """Write all of them, then make them appear at once."""
        state, job = self._state, self._job
        store = object_store(state)
        count = max(1, state.config.shards)
        pattern = state.config.vertex_shard_pattern
        names = ["predictions.jsonl"] if count == 1 else [pattern.format(number + 1) for number in range(count)]
        late = state.now() + job.script.results_after if job.script.results_after else 0.0
        with ExitStack() as undo:
            writers = [store.writer() for _ in names]
            for writer in writers:
                undo.callback(writer.abort)
            self._fill(writers)
            undo.pop_all()
        for number, (writer, name) in enumerate(zip(writers, names, strict=True)):
            spoilt = job.script.spoilt.get(str(number))
            if spoilt in ("empty", "proxy_page"):
                writer.abort()
                writer = _spoilt(store, spoilt)
            readable = late
            if job.script.spoilt:
                readable = (late or float("inf")) if spoilt == "unlisted" else 0.0
            path = f"{folder}/{name}"
            writer.commit(bucket, path, content_type="application/octet-stream", readable=readable)

    def _fill(self, writers: list[ObjectWriter]) -> None:
        job, script = self._job, self._job.script
        if script.result_file:
            with open(script.result_file, "rb") as scripted:
                while block := scripted.read(1 << 20):
                    writers[0].write(block)
            return
        if script.result_bytes:
            for block in filler(int(script.result_bytes), int(script.result_line_bytes), _ends):
                writers[0].write(block)
            return
        limit = round(script.results_share * job.source.count) if script.results_share < 1.0 else None
        # The last line of each object is held back, so that it can break off in its middle.
        pending = [b""] * len(writers)
        for number, line in enumerate(self._lines()):
            place = number % len(writers)
            if limit is None or number < limit:
                writers[place].write(pending[place])
                pending[place] = _encode(line) + b"\n"
        for writer, last in zip(writers, pending, strict=True):
            writer.write(last[: len(last) // 2] if script.truncate_last_line else last)

    def _lines(self) -> Iterator[dict[str, Any]]:
        state, job = self._state, self._job
        config = state.config
        legacy = is_legacy(job.model)
        # A seeded job has rows that nobody imported.
        columns = job.source.columns if isinstance(job.source, ImportedRows) else None
        when = timestamp(job.ended or state.now(), 3).removesuffix("Z") + "+00:00"
        for answer in answers(state, job, shuffle=config.vertex_shuffle):
            # A failed row fails no job: its status is a text, and a job without one good row ends SUCCEEDED, as
            # captures show.
            status = status_text(answer)
            row = answer.row
            if legacy:
                instance = {"content": row.raw.get("content") if row else answer.key}
                yield {"instance": instance, "predictions": predictions(answer), "status": status}
                continue
            line: dict[str, Any] = {"status": status, "processed_time": when}
            if row is None:
                line |= {"key": answer.key, "request": {"contents": []}}
            elif columns is None or "inputSchema" in job.output:
                line |= row.raw | {"request": row.request}
            else:
                line |= columns.echo(
                    row.raw, coerce=config.coerce_numeric_keys, empty_containers=config.vertex_empty_containers
                )
            if answer.error is None:
                line["response"] = response_of(answer)
            elif config.vertex_failed_response == "empty":
                line["response"] = {}
            yield line


def _spoilt(store: ObjectStore, how: str) -> ObjectWriter:
    writer = store.writer()
    writer.write(PROXY_PAGE if how == "proxy_page" else b"")
    return writer


def output_table(state: EmulatorState, job: Job) -> tuple[str, str, str]:
    """
    Return where the job writes.

    :raises JobFailure: If the dataset does not exist, or a fully named table does.
    """
    uri = job.resource["outputConfig"]["bigqueryDestination"]["outputUri"]
    parts = uri.removeprefix("bq://").split(".")
    stamp = re.sub(r"\D", "_", timestamp(job.created, 6).removesuffix("Z"))
    store = table_store(state)
    if len(parts) == 1:
        dataset = re.sub(r"\W", "_", f"prediction_{job.model.rpartition('/')[2]}_{stamp}")
        store.create_dataset(parts[0], dataset)
        return parts[0], dataset, "predictions"
    # By the documentation the dataset has to exist, and a fully named table must not:
    # https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-from-bigquery
    if not store.has_dataset(parts[0], parts[1]):
        raise JobFailure(5, f"Not found: Dataset {parts[0]}:{parts[1]}")
    if len(parts) == 2:
        return parts[0], parts[1], f"predictions_{stamp}"
    if (parts[0], parts[1], parts[2]) in store.tables:
        raise JobFailure(6, f"Already Exists: Table {parts[0]}:{parts[1]}.{parts[2]}")
    return parts[0], parts[1], parts[2]


def write_table(state: EmulatorState, job: Job) -> None:
    """
    Write the answers to a table: the input's columns, the response, its status and its time.

    :raises JobFailure: As :func:`output_table` does.
    """
    project, dataset, name = output_table(state, job)
    legacy = is_legacy(job.model)
    schema: list[dict[str, str]] = list(job.output.get("inputSchema") or [])
    if not schema:
        columns = job.source.columns.siblings if isinstance(job.source, ImportedRows) else ["key"]
        schema = [{"name": column, "type": "STRING"} for column in columns]
        schema += [] if legacy else [{"name": "request", "type": "JSON"}]
    known = [column["name"] for column in schema]
    schema += [{"name": "predictions" if legacy else "response", "type": "JSON"}, {"name": "status", "type": "STRING"}]
    # Whether the real table has this column is not documented; the Cloud Storage output has the member.
    schema += [] if legacy else [{"name": "processed_time", "type": "TIMESTAMP"}]
    rows = []
    for answer in answers(state, job, shuffle=state.config.vertex_shuffle):
        raw = answer.row.raw if answer.row else {"key": answer.key}
        row = {column: raw.get(column) for column in known}
        row["status"] = status_text(answer)
        if legacy:
            row["predictions"] = predictions(answer)
        else:
            row["response"] = response_of(answer) if answer.error is None else None
            row["processed_time"] = state.now()
        rows.append(row)
    table_store(state).create_table(project, dataset, name, schema=schema, rows=rows)
    job.output["outputInfo"] = {"bigqueryOutputDataset": f"bq://{project}.{dataset}", "bigqueryOutputTable": name}


def _ends(number: int) -> tuple[str, str]:
    """What stands around the text of a line that fills a file."""
    return (
        '{"status":"","key":"row-%d","request":{"contents":[{"role":"user","parts":[{"text":"Row %d"}]}]},'
        '"response":{"candidates":[{"content":{"role":"model","parts":[{"text":"' % (number, number),
        '"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":4,"totalTokenCount":8}}}\n',
    )


def status_text(answer: Answer) -> str:
    """The ``status`` member of a result row: empty, or ``Bad Request: `` and an error body as text."""
    if answer.error is None:
        return ""
    code = HTTP_OF_GRPC.get(int(answer.error.get("code", 13)), 500)
    error: dict[str, Any] = {"code": code}
    if answer.error.get("message") is not None:
        error["message"] = answer.error["message"]
    error["status"] = STATUS_WORDS.get(code, "UNKNOWN")
    # Only "Bad Request" was ever shown; that other codes bring their own HTTP phrase is a guess.
    phrase = "Client Closed Request" if code == 499 else HTTPStatus(code).phrase
    return f"{phrase}: " + json.dumps({"error": error})


def response_of(answer: Answer) -> dict[str, Any] | None:
    """The ``response`` member of a row that did not fail; the service adds ``@default`` to the model's version."""
    response = answer.response
    version = (response or {}).get("modelVersion")
    if response is not None and version and "@" not in version:
        return {**response, "modelVersion": f"{version}@default"}
    return response


def predictions(answer: Answer) -> list[dict[str, Any]]:
    """The ``predictions`` member of a legacy embedding row."""
    if answer.response is None or answer.error is not None:
        return []
    tokens = answer.response.get("tokenCount")
    if tokens is None:
        tokens = (answer.response.get("usageMetadata") or {}).get("promptTokenCount", 0)
    values = (answer.response.get("embedding") or {}).get("values") or []
    return [{"embeddings": {"statistics": {"token_count": int(tokens), "truncated": False}, "values": values}}]
