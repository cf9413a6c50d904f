# SPDX-License-Identifier: Apache-2.0
"""What happens when a job of the Developer API ends: its answers are written, to be downloaded or to be read inline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gemini_batch_emulator.answering.requests import member
from gemini_batch_emulator.answers import answers, filler
from gemini_batch_emulator.developer import openai
from gemini_batch_emulator.developer.store import file_store
from gemini_batch_emulator.rows import InputRow, make_row
from gemini_batch_emulator.scripts import PROXY_PAGE

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.rows import Answer
    from gemini_batch_emulator.scripts import Ending
    from gemini_batch_emulator.state import EmulatorState

LINES_AT_ONCE = 500


def read_row(index: int, raw: dict[str, Any]) -> InputRow:
    """Make an input row of a line or an inline row."""
    if openai.is_line(raw):
        return make_row(index, raw.get("custom_id"), openai.request_of(raw), raw)
    request = raw.get("request")
    if not isinstance(request, dict):
        request = {name: value for name, value in raw.items() if name not in ("key", "metadata")}
    key = raw.get("key")
    # Inline rows have their key in the metadata, where the service echoes all of it.
    if key is None:
        key = member(raw.get("metadata"), "key")
    return make_row(index, key, request, raw)


class DeveloperRun:
    """What happens when a job begins and when it ends."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def start(self, job: Job) -> Ending | None:
        """Begin; everything was checked at creation."""
        return None

    def finish(self, job: Job, ending: Ending) -> Ending | None:
        """Write the answers of the rows that ran."""
        state = self._state
        script = job.script
        # Inline in, inline out; a file job answers in a file, whatever its size.
        is_inline = bool(job.resource.get("inline")) or script.responses_inline
        path = state.new_path(".results")
        if script.result_file is not None:
            path.unlink(missing_ok=True)
            # A prepared file may have gigabytes: it is served, not copied.
            path.symlink_to(script.result_file)
            job.succeeded = job.source.count
        elif script.result_bytes is not None:
            with path.open("wb", buffering=1 << 20) as file:
                for block in filler(script.result_bytes, script.result_line_bytes, _ends):
                    file.write(block)
            job.succeeded = job.source.count
        else:
            self._write(job, path, is_inline=is_inline)
        if not is_inline:
            self._spoil(job, path)
            # 42 characters behind the slash, two more than get and delete of a file accept: only the download works, as
            # with the service.
            name = f"files/batch-{job.name.partition('/')[2]}"
            file_store(state).outputs[name] = (path, job)
            job.output["responsesFile"] = name
        job.output["path"] = path
        return None

    def _write(self, job: Job, path: Path, *, is_inline: bool) -> None:
        encode_lines = msgspec.json.Encoder().encode_lines
        line_of = inline_row if is_inline else file_row
        limit = round(job.script.results_share * job.source.count)
        pending: list[dict[str, Any]] = []
        with path.open("wb", buffering=0) as file:
            for number, answer in enumerate(answers(self._state, job)):
                # What is cut away ran and is counted all the same.
                if number < limit or job.script.results_share >= 1.0:
                    pending.append(line_of(answer))
                if len(pending) >= LINES_AT_ONCE:
                    file.write(encode_lines(pending))
                    pending.clear()
            file.write(encode_lines(pending))

    @staticmethod
    def _spoil(job: Job, path: Path) -> None:
        script = job.script
        # What a transfer that broke off, or a proxy in between, makes of a result. The job's counters still say all.
        if script.truncate_last_line:
            _truncate_last_line(path)
        if script.spoilt.get("0") == "empty":
            path.write_bytes(b"")
        elif script.spoilt.get("0") == "proxy_page":
            path.write_bytes(PROXY_PAGE)


def file_row(answer: Answer) -> dict[str, Any]:
    """Return a line of a result file, in the form of the row's own line."""
    if answer.row is not None and openai.is_line(answer.row.given):
        return openai.line_of(answer)
    key = {} if answer.key is None else {"key": answer.key}
    if answer.error is not None:
        return {**key, "error": answer.error}
    # The key last, as captures show it; others have it first, so nobody may count on either.
    return {"response": answer.response, **key}


def inline_row(answer: Answer) -> dict[str, Any]:
    """Return an entry of the inline answers; it carries the row's metadata."""
    row: dict[str, Any] = {"response": answer.response} if answer.error is None else {"error": answer.error}
    metadata = answer.row.raw.get("metadata") if answer.row is not None else {"key": answer.key}
    if metadata is not None:
        row["metadata"] = metadata
    return row


def _truncate_last_line(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb+") as file:
        start = max(0, size - (1 << 20))
        file.seek(start)
        tail = file.read().rstrip(b"\n")
        begin = tail.rfind(b"\n") + 1
        file.truncate(start + begin + (len(tail) - begin) // 2)


def _ends(number: int) -> tuple[str, str]:
    """What stands around the text of a line that fills a file."""
    return (
        '{"response":{"candidates":[{"content":{"role":"model","parts":[{"text":"',
        '"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":4,'
        '"candidatesTokenCount":4,"totalTokenCount":8}},"key":"row-'
        f'{number}"}}\n',
    )
