# SPDX-License-Identifier: Apache-2.0
"""A task's answers: one page of the rows that it landed, failing ones first."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.plugins.page import answers_sql, downloads
from airflow_provider_gemini_batch.plugins.page.answers_file import LONGEST, read_page, release
from airflow_provider_gemini_batch.plugins.page.answers_rows import AnswerPage, Wanted
from airflow_provider_gemini_batch.plugins.page.errors import NotHere, PageError, Refused
from airflow_provider_gemini_batch.plugins.page.images import images_in, without_images
from airflow_provider_gemini_batch.plugins.page.needs import reads_answers
from airflow_provider_gemini_batch.plugins.page.owners import reader_of
from airflow_provider_gemini_batch.plugins.page.reasons import Reason, explain, reason_of, reasons_in
from airflow_provider_gemini_batch.plugins.page.run_model import outcomes_of
from airflow_provider_gemini_batch.plugins.page.storage_reads import LOCAL, Read, StalledError, storage_of
from airflow_provider_gemini_batch.plugins.page.task_facts import map_indexes, read_task
from airflow_provider_gemini_batch.plugins.page.trust import check_place
from airflow_provider_gemini_batch.plugins.page.urls import answers_path
from airflow_provider_gemini_batch.plugins.page.values import count_of, counts_of
from airflow_provider_gemini_batch.plugins.page.visit import Route, Visit
from airflow_provider_gemini_batch.plugins.page.words import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from sqlalchemy.orm import Session
    from starlette.responses import Response

    from airflow_provider_gemini_batch.plugins.page.task_facts import TaskFacts

log = logging.getLogger(__name__)

OWN = ("key", "status", "text", "finish_reason", "model_version", "error_code", "error_message", "error", "usage",
       "response", "embedding", "attempts", "cost", "answer_source", "prompt_tokens", "output_tokens",
       "thoughts_tokens", "cached_tokens", "request_digest", "job_name", "answered_at")  # fmt: skip

HOW = ("finish_reason", "attempts", "prompt_tokens", "output_tokens", "thoughts_tokens", "cached_tokens", "usage",
       "cost", "model_version", "answer_source", "job_name", "answered_at", "request_digest")  # fmt: skip
"""What tells how a row was answered, in the order in which it is shown."""

SENT = ("request", "prompt", "contents")
"""Columns in which the request stands, where an output carries it."""

MOST_COPIED = 200_000
"""Characters of a row that can be copied."""


def show(visit: Visit) -> Generator[Read, Any, Response]:
    """Show a page of rows; the counts come from the manifest, so they are right while the file is slow."""
    with visit.session() as session:
        facts, place, storage, read = _source(session, visit)
        indexes = map_indexes(session, visit.address)
    manifest = facts.manifest
    # Failing rows first: nobody opens a table of answers to look at those that are right.
    counts = outcomes_of(manifest, {})
    failing = sum(counts.values()) - counts.get("succeeded", 0)
    status = visit.text("status", "failing" if failing else "")
    if status not in ("", "failing", *OUTCOMES):
        status = ""
    # Everything here comes out of an address that people type and share: each part is bounded or from a list.
    wanted = Wanted(status, visit.text("search"), visit.text("version"), visit.number("page", 1, least=1, most=100_000))
    found, problem = AnswerPage(), None
    try:
        found = yield Read(storage, lambda: read(wanted))
    except NotHere:
        raise
    except Exception as error:
        problem = _problem(error, storage)
    rows = [shown_row(row, found.prefix, answer_columns(manifest)) for row in found.rows]
    opened = visit.number("open", 0, least=0, most=len(rows))
    return visit.page(
        "answers.html",
        status=200 if problem is None else problem.status,
        address=visit.address,
        facts=facts,
        place=place,
        counts=counts,
        failing=failing,
        total=count_of(manifest.get("total")) or sum(counts.values()),
        versions=counts_of(manifest.get("model_versions")),
        wanted=wanted,
        found=found,
        rows=rows,
        opened=opened,
        panel=panel_of(found.rows[opened - 1], rows[opened - 1]) if opened else None,
        reasons=_reasons(manifest, status) if failing and wanted.page == 1 and not wanted.search else [],
        indexes=indexes,
        problem=problem,
        is_table=not manifest.get("output_path"),
        download=lambda **changes: answers_path(visit.address, **changes).replace("/answers?", "/answers/download?", 1),
        path=lambda **changes: answers_path(
            visit.address,
            **{"status": wanted.status or "all", "search": wanted.search, "version": wanted.version, **changes},
        ),
    )


def _reasons(manifest: Mapping[str, Any], status: str) -> list[Reason]:
    """Return why the rows have no answer that a filter shows."""
    every = status in ("", "failing")
    return [reason for reason in reasons_in(manifest) if every or status == (reason.status or "failed")]


def _problem(error: Exception, storage: str) -> PageError:
    """Return what is said of answers that cannot be read; raise what is a fault of ours."""
    if isinstance(error, StalledError):
        release()  # what the thread that waits has locked
    if isinstance(error, PageError):
        return error
    # Of an error of the system: those of libraries are `OSError`, too, and may quote an address with its token.
    is_plain = isinstance(error, OSError) and (storage == LOCAL or type(error).__module__ == "builtins")
    if is_plain or isinstance(error, GeminiBatchError):
        return PageError(502, "The results file cannot be read.", f"{type(error).__name__}: {str(error)[:300]}")
    if storage == LOCAL:
        raise error
    # Each file system has errors of its own; a message may quote the connection.
    log.error("The answers in %s cannot be read", storage, exc_info=error)
    text = f"{storage}: {type(error).__name__}. The log of the API server says more."
    return PageError(502, "The results file cannot be read.", text)


def _source(session: Session, visit: Visit) -> tuple[TaskFacts, str, str, Callable[[Wanted], AnswerPage]]:
    """Return what is known of the task, the place of its answers, which it named itself, its storage, and a reader."""
    facts = read_task(session, visit.address, past=False)
    if (reader := reader_of(session, facts)) is not None:  # a create operator's job is read by another task
        facts = read_task(session, reader, past=False)
    place = facts.manifest.get("output_path")
    if isinstance(place, str) and place:
        # With the rights of the API server, so a manifest that a person has written must not choose the file
        # (`trust.py`).
        check_place(session, facts, place)
        return facts, place, storage_of(place), lambda wanted: read_page(place, wanted)
    table = answers_sql.table_of(facts.manifest, facts.arguments)
    if table is None:
        raise NotHere("No answers yet", _why_none(facts))
    conn_id, name = table
    # A table is read over a connection, so who reads it needs the right to that connection, beside that to the DAG.
    if not visit.viewer.may_connection("GET", conn_id):
        raise Refused("You may not read this table", f"read on the connection {conn_id}, over which {name} is read")
    return facts, name, f"connection {conn_id}", lambda wanted: answers_sql.read_table(conn_id, name, wanted)


def _why_none(facts: TaskFacts) -> str:
    manifest = facts.manifest
    if manifest.get("output_table"):
        return f"They are in the table {manifest['output_table']}, which Airflow no longer knows how to reach."
    if "rows_to_ask" in manifest:
        return "The task only planned (dry_run)."
    if manifest:
        return "The task landed none: a download or a run writes them."
    text = "They appear here when the task has landed them."
    counts = {name: count for name, count in outcomes_of({}, facts.progress).items() if count}
    total = count_of(facts.progress.get("total"))
    if not counts or not total:
        return text
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{text} So far {sum(counts.values()):,} of {total:,} rows are answered: {told}."


def answer_columns(manifest: Mapping[str, Any]) -> list[str]:
    """Return the columns of a typed table that hold the answer."""
    told = manifest.get("answer_columns")
    return [str(name) for name in told] if isinstance(told, list) else []


def shown_row(row: Mapping[str, Any], prefix: str, answers: Sequence[str] = ()) -> dict[str, Any]:
    """Return a row as it is shown: key, outcome, prompt's side, answer's side, and why there is none."""

    def own(name: str) -> Any:
        return row.get(prefix + name)

    error = own("error") if isinstance(own("error"), dict) else {}
    code, message = own("error_code") or error.get("code"), own("error_message") or error.get("message")
    # Columns of the user's own are shown as given, whatever they are called: a prefix tells ours apart.
    mine = {prefix + name for name in OWN} if prefix else set(OWN)
    typed = {name: _text(row[name]) for name in answers if name in row and name not in mine and row[name] is not None}
    others = {
        name: _text(value)
        for name, value in row.items()
        if name not in (mine | typed.keys() | set(answers)) and value is not None
    }
    answer = own("text") if own("text") is not None else own("embedding")
    status = str(own("status") or "")
    usable = status == "succeeded" or not status
    return {
        "key": _text(row.get("key") if row.get("key") is not None else next(iter(row.values()), "")),
        "status": status,
        "given": others,
        "answer": _text(answer),
        "typed": typed,
        "message": _text(message),
        "reason": reason_of(status, own("finish_reason"), code),
        "why": None if usable else explain(status, own("finish_reason"), code),
        "facts": {
            name: _small_dollars(own(name)) if name == "cost" else _text(own(name))
            for name in HOW
            if own(name) is not None
        },
    }


def panel_of(row: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands beside the table of a row that is opened: the whole of it, with its images."""
    fields = dict(shown["typed"])
    try:
        parsed = json.loads(shown["answer"]) if shown["answer"][:1] == "{" else None
    except ValueError:  # cut off, or no JSON
        parsed = None
    if isinstance(parsed, dict):
        fields |= {str(name): value if isinstance(value, list) else _text(value) for name, value in parsed.items()}
    sent = next((row[name] for name in SENT if row.get(name) is not None), None)
    given = {name: value for name, value in shown["given"].items() if name not in SENT}
    plain_row = {str(name): without_images(value) for name, value in row.items() if value is not None}
    return {
        **shown,
        "fields": fields,
        "sent": "" if sent is None else _text(sent),
        "given": given,
        "images": images_in(dict(row)),
        "json": json.dumps(plain_row, ensure_ascii=False, default=str)[:MOST_COPIED],
    }


def _small_dollars(value: Any) -> str:
    """Return what one row cost, which may be hundredths of a cent; CSV has it as text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _text(value)
    # What was paid is never shown as nothing: an embedding of ten tokens costs less than a millionth of a dollar.
    if 0 < number < 0.000001:
        return "< $0.000001"
    return "$" + f"{number:.6f}".rstrip("0").rstrip(".")


def _text(value: Any) -> str:
    """Return a value as text, cut where nobody reads on."""
    if value is None:
        return ""
    # 3,072 numbers say nothing to a person; their length and their norm may.
    if isinstance(value, list) and len(value) > 8 and all(isinstance(each, (int, float)) for each in value):
        norm = sum(float(each) ** 2 for each in value) ** 0.5
        return f"vector of {len(value)} numbers, norm {norm:.3f}"
    value = without_images(value)
    # A moment or an exact number, as Parquet has them, is no JSON: it would stand in quotes.
    is_json = isinstance(value, (dict, list, bool, int, float))
    text = json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


def download(visit: Visit) -> Generator[Read, Any, Response]:
    """Send the rows: the file as it is, or the failing rows as JSON lines."""
    from starlette.responses import StreamingResponse

    with visit.session() as session:
        facts, place, storage, _ = _source(session, visit)
    if not facts.manifest.get("output_path"):
        raise NotHere("No file", _why_none(facts))
    only = visit.text("status")
    if only not in ("", "failing", *OUTCOMES):
        only = ""
    try:
        name, pieces = yield Read(storage, lambda: downloads.open_rows(place, only))
    except Exception as error:
        raise _problem(error, storage) from error
    # As an attachment, so that a browser never shows what a model wrote as a page of this server.
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return StreamingResponse(downloads.sent(storage, pieces), media_type="application/octet-stream", headers=headers)


ROUTES = [
    Route("/answers/download", download, reads_answers, threads="answers"),
    Route("/answers", show, reads_answers, threads="answers"),
]
