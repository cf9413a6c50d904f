# SPDX-License-Identifier: Apache-2.0
"""Whether a job that ended well was really cancelled half-way."""

# A job of the Developer API that is cancelled after it began ends SUCCEEDED; rows that had not run carry error code 1.
# Such a job is not the whole work, so a submission must not reuse it. Only jobs with rows that are not counted as
# answered are in doubt, and what is read of their answers is a piece: the last bytes, or the first ones where the
# service ignores `Range`.

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.api.flows import exchange
from airflow_provider_gemini_batch.api.replies import expect_success
from airflow_provider_gemini_batch.errors import NotFoundError, RequestRejectedError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.models import BatchJob, BatchStats
    from airflow_provider_gemini_batch.api.retry import RetryPolicy
    from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest

SAMPLE_BYTES = 1024 * 1024
"""How much of a job's answers is read at most."""

CANCELLED = 1
"""The gRPC code of a row that had not run when its job was cancelled."""

EXPECTED_ERRORS = 10
"""Of so many failed rows that a sample should hold, at least one is in it, or the failed rows lie together."""

# Inline answers lie in the job twice, or in one of the two places.
_CODES_ONLY = ",".join(
    f"{place}/inlinedResponses/inlinedResponses/error/code" for place in ("response", "metadata/output")
)
# An error object's members up to its code; a quote within a text is escaped, so that no answer can look like this.
_ERROR_CODE = re.compile(rb'"error"\s*:\s*\{(?:[^{}"]|"(?!code")(?:[^"\\]|\\.)*")*"code"\s*:\s*(\d+)')


@dataclass
class CutShort:
    """
    Says of ended jobs whether a cancel cut them short; each job is read once.

    :param verdicts: What is known already, by job name.
    :param on_verdict: Called with each new one, to be kept for the next attempt.
    """

    backend: Backend
    retry: RetryPolicy
    verdicts: MutableMapping[str, bool] = field(default_factory=dict)
    on_verdict: Callable[[str, bool], None] = lambda job_name, verdict: None

    def __call__(self, job: BatchJob) -> Flow[bool]:
        """
        Read a piece of the job's answers if need be.

        :raises GeminiBatchError: If they cannot be read for another reason than that they are not there.
        """
        if _is_whole(job.stats) or job.output is None or job.output.kind not in ("inline", "file"):
            return False
        if job.name not in self.verdicts:
            verdict = yield from self._read(job, job.output.kind, job.output.place)
            if verdict is None:
                return False  # answers may appear late: no sign of a cancel, and no verdict to be kept
            self.verdicts[job.name] = verdict
            self.on_verdict(job.name, verdict)
        return self.verdicts[job.name]

    def _read(self, job: BatchJob, kind: str, place: str) -> Flow[bool | None]:
        """Return the verdict, or None while the answers are not there."""
        try:
            if kind == "file":
                # The tail, as rows that had not run are most likely there.
                tail = replace(self.backend.download_file(place), headers={"Range": f"bytes=-{SAMPLE_BYTES}"})
                return verdict_of(job, (yield from self._sample(tail)))
            plain = self.backend.get_job(job.name, masked=False)
            try:
                reply = yield from self._sample(replace(plain, params=(("fields", _CODES_ONLY),)))
            except RequestRejectedError:
                reply = yield from self._sample(plain)
            if b'"inlinedResponses"' not in reply.body:
                reply = yield from self._sample(plain)  # what is not shown under the mask may be there all the same
            return verdict_of(job, reply)
        except NotFoundError:
            return None

    def _sample(self, request: HttpRequest) -> Flow[HttpReply]:
        return (yield from exchange(replace(request, at_most=SAMPLE_BYTES), expect_success, self.retry))


def _is_whole(stats: BatchStats) -> bool:
    """Whether each row is counted as answered, so that nothing has to be read: one that was cut off is a failed one."""
    return stats.failed == 0 and stats.succeeded is not None and stats.succeeded >= (stats.total or 0)


def verdict_of(job: BatchJob, sample: HttpReply) -> bool:
    """Judge a job by a piece of its answers."""
    codes = {int(code) for code in _ERROR_CODE.findall(sample.body)}
    if CANCELLED in codes:
        return True
    is_head = sample.status != 206 and len(sample.body) >= SAMPLE_BYTES
    if codes or not is_head or not job.stats.total:
        return False
    # No row failed up to here, though so many of all did: those that did lie together, behind.
    # Say 5 of 10,000 rows failed and the head holds 2,000 rows: one failed row is expected there, and its absence
    # proves nothing.
    rows = sample.body.count(b"\n")
    return rows * (job.stats.failed or 0) / job.stats.total >= EXPECTED_ERRORS
