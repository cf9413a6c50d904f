# SPDX-License-Identifier: Apache-2.0
"""A task's answers: one page of the rows that it landed, failing ones first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.plugins.page.answers_file import LONGEST, read_page
from airflow_provider_gemini_batch.plugins.page.answers_rows import AnswerPage, Wanted
from airflow_provider_gemini_batch.plugins.page.errors import NotHere, PageError
from airflow_provider_gemini_batch.plugins.page.needs import reads_answers
from airflow_provider_gemini_batch.plugins.page.reasons import reason_of
from airflow_provider_gemini_batch.plugins.page.run_model import outcomes_of
from airflow_provider_gemini_batch.plugins.page.task_facts import read_task
from airflow_provider_gemini_batch.plugins.page.trust import check_place
from airflow_provider_gemini_batch.plugins.page.urls import answers_path
from airflow_provider_gemini_batch.plugins.page.values import count_of, counts_of
from airflow_provider_gemini_batch.plugins.page.visit import Route, Visit
from airflow_provider_gemini_batch.plugins.page.words import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response

OWN = ("key", "status", "text", "finish_reason", "model_version", "error_code", "error_message", "error", "usage",
       "response", "embedding", "attempts", "cost", "answer_source", "prompt_tokens", "output_tokens",
       "thoughts_tokens", "cached_tokens", "request_digest", "job_name", "answered_at")  # fmt: skip


def show(visit: Visit) -> Response:
    """Show a page of rows; the counts come from the manifest, so they are right while the file is slow."""
    with visit.session() as session:
        facts = read_task(session, visit.address)
        manifest = facts.manifest
        place = manifest.get("output_path")
        if not isinstance(place, str) or not place:
            raise NotHere("No answers yet", _why_none(manifest))
        check_place(session, facts, place)
    counts = outcomes_of(manifest, {})
    failing = sum(counts.values()) - counts.get("succeeded", 0)
    status = visit.text("status", "failing" if failing else "")
    if status not in ("", "failing", *OUTCOMES):
        status = ""
    wanted = Wanted(status, visit.text("search"), visit.text("version"), visit.number("page", 1, least=1, most=100_000))
    found, problem = AnswerPage(), None
    try:
        found = read_page(place, wanted)
    except NotHere:
        raise
    except PageError as error:
        problem = error
    except (GeminiBatchError, OSError) as error:
        problem = PageError(502, "The results file cannot be read.", f"{type(error).__name__}: {str(error)[:300]}")
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
        rows=[shown_row(row, found.prefix) for row in found.rows],
        problem=problem,
        path=lambda **changes: answers_path(
            visit.address,
            **{"status": wanted.status or "all", "search": wanted.search, "version": wanted.version, **changes},
        ),
    )


def _why_none(manifest: Mapping[str, Any]) -> str:
    if manifest.get("output_table"):
        return f"They are in the table {manifest['output_table']}. Read them there."
    if "rows_to_ask" in manifest:
        return "The task only planned (dry_run)."
    if manifest:
        return "The task landed none: a download or a run writes them."
    return "They appear here when the task has landed them."


def shown_row(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return a row as it is shown: key, outcome, prompt's side, answer's side, and why there is none."""

    def own(name: str) -> Any:
        return row.get(prefix + name)

    error = own("error") if isinstance(own("error"), dict) else {}
    code, message = own("error_code") or error.get("code"), own("error_message") or error.get("message")
    mine = {prefix + name for name in OWN} if prefix else set(OWN)
    others = {name: _text(value) for name, value in row.items() if name not in mine and value is not None}
    answer = own("text") if own("text") is not None else own("embedding")
    status = str(own("status") or "")
    return {
        "key": _text(row.get("key") if row.get("key") is not None else next(iter(row.values()), "")),
        "status": status,
        "given": others,
        "answer": _text(answer),
        "message": _text(message),
        "reason": reason_of(status, own("finish_reason"), code),
        "facts": {name: _text(own(name)) for name in OWN[3:5] + OWN[11:] if own(name) is not None},
    }


def _text(value: Any) -> str:
    """Return a value as text, cut where nobody reads on."""
    if value is None:
        return ""
    if isinstance(value, list) and len(value) > 8 and all(isinstance(each, (int, float)) for each in value):
        norm = sum(float(each) ** 2 for each in value) ** 0.5
        return f"vector of {len(value)} numbers, norm {norm:.3f}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


ROUTES = [Route("/answers", show, reads_answers, reads_files=True)]
