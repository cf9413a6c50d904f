# SPDX-License-Identifier: Apache-2.0
"""The answers of a job, row by row, with everything its script says about rows."""

# Each backend puts them into its own words. Counters and the record of what ran are kept here, so that they are right
# whatever a backend writes.

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.answering.embedding import embed
from gemini_batch_emulator.answering.generation import USUAL, Manner, generate
from gemini_batch_emulator.models import answering_for
from gemini_batch_emulator.rows import Answer, make_row, problem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.rows import InputRow
    from gemini_batch_emulator.scripts import JobScript, RowRule
    from gemini_batch_emulator.state import EmulatorState


def output_tokens(response: dict[str, Any]) -> int:
    """Return the tokens a response is billed for beyond its prompt."""
    usage = response.get("usageMetadata") or {}
    return int(usage.get("candidatesTokenCount", 0)) + int(usage.get("thoughtsTokenCount", 0))


def respond(kind: str, model: str, row: InputRow, manner: Manner = USUAL) -> dict[str, Any]:
    """
    Answer a row.

    :param model: Short name.
    """
    if kind == "embed":
        return embed(model, row.prompt)
    return generate(model, row.prompt, row.index, manner)


def answers(state: EmulatorState, job: Job, *, shuffle: bool = False) -> Iterator[Answer]:
    """
    Yield the result rows of a job as they are to be written; count successes, failures, tokens and what ran.

    :param shuffle: Whether this backend shuffles unless the script says otherwise.
    """
    script = job.script
    order = None
    if script.shuffle if script.shuffle is not None else shuffle:
        order = list(range(job.source.count))
        # By the job's own facts, so that a second run of the same test sees the same order.
        random.Random(f"{script.seed}|{job.display_name}|{job.source.count}").shuffle(order)
    answering = Answering(state, script=script, kind=job.kind, model=job.model)
    record = state.executions.record(job)
    for row in job.source.rows(order):
        if job.ran_limit is None or row.index < job.ran_limit:
            # Before it is answered: what is kept is what ran, not what succeeded.
            record.add(row.index, row.content)
            found = answering.row(row)
        else:
            found = _not_run(job, row)
        for answer in found:
            if answer.response is not None and answer.error is None:
                job.succeeded += 1
                job.output_tokens += output_tokens(answer.response)
            else:
                job.failed += 1
            yield answer
    record.close()
    for key in script.extra_keys:
        request = {"contents": [{"parts": [{"text": f"Nobody asked for {key}"}]}]}
        yield Answer(key, None, respond(job.kind, answering.model, make_row(0, key, request)))


def _not_run(job: Job, row: InputRow) -> list[Answer]:
    """What is written of a row that had not run when its job was cancelled."""
    # Vertex AI writes nothing of rows that did not run; the Developer API writes a line with code 1 for each.
    if job.raw_state == "CANCELLING" or job.cancelled is None:
        return []
    return [Answer(row.key, row, error={"code": 1, "message": "The operation was cancelled."})]


def filler(total: int, line_bytes: int, ends: Callable[[int], tuple[str, str]]) -> Iterator[bytes]:
    """
    Yield result lines of *line_bytes* each, for keys ``row-0``, ..., until at least *total* bytes are there.

    :param ends: What stands around the text of the line with a number.
    """
    written = number = 0
    while written < total:
        block = bytearray()
        while len(block) < 1 << 20 and written + len(block) < total:
            head, tail = ends(number)
            block += (head + "x" * max(1, line_bytes - len(head) - len(tail)) + tail).encode()
            number += 1
        written += len(block)
        yield bytes(block)


class Answering:
    """
    Answers rows by a script.

    :param kind: ``generate`` or ``embed``.
    :param model: The model asked; another one may answer.
    """

    def __init__(
        self, state: EmulatorState, *, script: JobScript, kind: str, model: str, is_batch: bool = True
    ) -> None:
        self._state = state
        self._kind = kind
        self._usual = script.manner()
        # A call without a job is not a batch, and is not concerned.
        self._degrades = state.config.degrade_json_schema and kind == "generate" and is_batch
        self._rules: list[tuple[RowRule, int, Manner]] = [
            (rule, script.seed * 1009 + number, rule.manner(self._usual)) for number, rule in enumerate(script.rows)
        ]
        self.model = answering_for(state.config, model, state.now())

    def row(self, row: InputRow) -> list[Answer]:
        """Return the answers to a row: one, as a rule."""
        found = self._rule_for(row) if self._rules else None
        if found is None:
            problem = None if row.line is not None else problem_of(self._kind, row.asked)
            if problem:
                return [Answer(row.key, row, error={"code": 3, "message": problem})]
            manner = self._usual
            # The live service answers responseJsonSchema in batches with broken JSON (0 of 502 rows right in one
            # report), and responseSchema as it should.
            if self._degrades and row.prompt.settings.is_json_schema:
                manner = replace(manner, outcome="invalid", how="extra")
            return [Answer(row.key, row, respond(self._kind, self.model, row, manner))]
        rule, manner = found
        # It ran and is billed, and no line tells of it.
        if rule.outcome == "missing":
            return []
        if rule.outcome == "null":
            return [Answer(row.key, row)]
        if rule.outcome == "error":
            error: dict[str, Any] = {"code": rule.code}
            if rule.message is not None:
                error["message"] = rule.message
            return [Answer(row.key, row, error=error)]
        answer = Answer(row.key, row, respond(self._kind, self.model, row, manner))
        return [answer, answer] if rule.outcome == "duplicate" else [answer]

    def _rule_for(self, row: InputRow) -> tuple[RowRule, Manner] | None:
        for rule, seed, manner in self._rules:
            if rule.matches(row, seed) and self._state.history.allows(rule, row.content):
                rule.matched += 1
                return rule, manner
        return None
