# SPDX-License-Identifier: Apache-2.0
"""Why a row has no usable answer, in words: a sentence, then what to do, then the code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.plugins.page.values import count_of, counts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_FINISH = {
    "MAX_TOKENS": "Cut off before the answer was complete. Raise maxOutputTokens, or lower the thinking level.",
    "SAFETY": "Google's safety filters held the answer back. Asking again gives the same.",
    "PROHIBITED_CONTENT": "Google refused the prompt or the answer. Asking again gives the same.",
    "RECITATION": "The answer repeated a protected text, so Google held it back. Word the prompt differently.",
    "BLOCKLIST": "The answer held a term of a block list. Asking again gives the same.",
    "SPII": "The answer held personal data, so Google held it back.",
    "MALFORMED_FUNCTION_CALL": "The model called a function in a way that cannot be read. Ask again, or simplify it.",
}
_BY_CODE = {
    1: "The job was cancelled before this row was answered. Ask it again.",
    3: "Not valid for the API. The message says what; correct the row.",
    4: "The job's time was over before this row was answered. Ask it again.",
    5: "Something that the request names does not exist. Correct the row.",
    7: "The key or account may not do this.",
    8: "A quota was used up. Ask it again later.",
    13: "Internal error at Google, which passes. Ask it again.",
    14: "Google was not available, which passes. Ask it again.",
}
_BY_STATUS = {
    "missing": "No answer line came back. Ask it again.",
    "blocked": "Google refused the prompt or the answer. Asking again gives the same.",
    "invalid": "The answer is not what the schema asks.",
    "failed": "There is no usable answer.",
}


@dataclass(frozen=True)
class Reason:
    """
    Why rows have no usable answer.

    :param what: A sentence.
    :param todo: What to do; may be empty.
    :param marks: Codes by which Google and the files call it.
    :param count: Rows, where they are counted.
    :param search: Words that find these rows.
    """

    status: str
    what: str
    todo: str = ""
    marks: str = ""
    message: str = ""
    count: int = 0
    search: str = ""


def explain(status: str, finish_reason: Any, code: Any) -> Reason:
    """
    Return why a row with this outcome has no usable answer.

    :param code: gRPC number of its error.
    """
    finish = str(finish_reason or "")
    try:
        number = int(code or 0)
    except (TypeError, ValueError):
        number = 0
    # The most telling first: a finish reason says what the model did, a code what the service did, a status only the
    # outcome.
    text = _BY_FINISH.get(finish) or _BY_CODE.get(number) or _BY_STATUS.get(status, "There is no usable answer.")
    marks = ", ".join(part for part in (finish, str(number) if number else "") if part and part != "STOP")
    what, _, todo = text.partition(". ")
    return Reason(status, f"{what.rstrip('.')}.", todo, marks)


def reason_of(status: str, finish_reason: Any, code: Any) -> str:
    """Return why a row has no usable answer as one text; empty for one that has."""
    if status == "succeeded" or not status:
        return ""
    found = explain(status, finish_reason, code)
    text = f"{found.what} {found.todo}".strip()
    return f"{text} ({found.marks})" if found.marks else text


def reasons_in(manifest: Mapping[str, Any]) -> list[Reason]:
    """Return the reasons that a manifest counts, the most frequent first; rows alone would not tell how many."""
    found = []
    errors = manifest.get("errors") or manifest.get("first_errors")
    for entry in errors if isinstance(errors, list) else ():
        count = count_of(entry.get("count")) if isinstance(entry, dict) else None
        if count:
            message, status = str(entry.get("message") or ""), str(entry.get("status") or "")
            # A manifest counts errors by code and message; where a finish reason was the trouble, it stands in the
            # message alone.
            finish = next((name for name in _BY_FINISH if name in message.replace(",", " ").split()), "")
            known = explain(status, finish, entry.get("code"))
            search = " ".join(message.split()[:8])[:200]
            found.append(replace(known, message=message, count=count, search=search))
    # So that no row is told of twice: what has an error may have a finish reason as well.
    known_marks = " ".join(f"{reason.marks} {reason.message}" for reason in found)
    for finish, count in counts_of(manifest.get("finish_reasons")).items():
        if finish in _BY_FINISH and finish not in known_marks:
            status = "invalid" if finish == "MAX_TOKENS" else "blocked"
            found.append(replace(explain(status, finish, None), count=count, search=finish))
    return sorted(found, key=lambda reason: -reason.count)[:12]
