# SPDX-License-Identifier: Apache-2.0
"""Why a row has no usable answer, in words: a sentence, then what to do, then the code."""

from __future__ import annotations

from typing import Any

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


def reason_of(status: str, finish_reason: Any, code: Any) -> str:
    """
    Return why a row has no usable answer; empty for one that has.

    :param code: gRPC number of its error.
    """
    if status == "succeeded" or not status:
        return ""
    finish = str(finish_reason or "")
    try:
        number = int(code or 0)
    except (TypeError, ValueError):
        number = 0
    text = _BY_FINISH.get(finish) or _BY_CODE.get(number) or _BY_STATUS.get(status, "There is no usable answer.")
    marks = ", ".join(part for part in (finish, str(number) if number else "") if part and part != "STOP")
    return f"{text} ({marks})" if marks else text
