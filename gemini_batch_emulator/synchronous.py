# SPDX-License-Identifier: Apache-2.0
"""One request answered at once, by the rules that jobs go by: knob ``script``, and scripts for the kind ``sync``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.answers import Answering
from gemini_batch_emulator.rows import make_row

if TYPE_CHECKING:
    from gemini_batch_emulator.state import EmulatorState


def answer_now(state: EmulatorState, model: str, request: dict[str, Any]) -> dict[str, Any]:
    """
    Answer a ``generateContent`` call.

    A script with ``times`` is used up by such calls only if it is meant for the kind ``sync``.

    :param model: With its path.
    :return: The response, or ``{"error": {"code", "message"}}`` for a row that fails.
    """
    script = state.script_for(backend="gemini", kind="sync", model=model, display_name="")
    row = make_row(0, None, request)
    # Counted with the rows of jobs: who asks a row both ways has asked it twice.
    record = state.executions.record(None)
    record.add(0, row.content)
    record.close()
    answers = Answering(state, script=script, kind="generate", model=model, is_batch=False).row(row)
    if not answers:
        # A synchronous call cannot drop a row: it fails.
        return {"error": {"code": 13, "message": "Internal error encountered."}}
    answer = answers[0]
    if answer.error is not None:
        return {"error": answer.error}
    return answer.response or {"usageMetadata": {"promptTokenCount": 0}}
