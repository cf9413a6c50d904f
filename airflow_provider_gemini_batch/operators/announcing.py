# SPDX-License-Identifier: Apache-2.0
"""What does Airflow learn of a job, and when? Its name as soon as it exists, its token even before."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.operators.base import MANIFEST_KEY
from airflow_provider_gemini_batch.operators.submit_arguments import SubmitArguments

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.lifecycle.submission import Submission

log = logging.getLogger(__name__)


def _manifest_of(job: BatchJob) -> dict[str, Any]:
    """Return what an ended job reports of itself: names, counts and places."""
    from airflow_provider_gemini_batch.api.identity import input_digest_of

    return {
        "job_name": job.name,
        "model": job.model,
        "state": job.state.value,
        "total": job.stats.total,
        "succeeded": job.stats.succeeded,
        "failed": job.stats.failed,
        "input_digest": input_digest_of(job),
        "output": job.output.place if job.output is not None else None,
    }


class Announcing(SubmitArguments):
    """What a create operator knows of its job, and pushes; :class:`~.operators.submit.SubmitOperator` finds it out."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ti: Any = None
        self._job_name: str | None = None
        self._pushed: str | None = None
        self._token = ""
        self._paid_twice: list[str] = []

    def _know_token(self, token: str) -> None:
        self._token = token
        self._push("submission_token", token)

    def _know_job(self, job_name: str) -> None:
        """
        Push the job's name as soon as it exists; from now on a kill cancels it.

        Whether Airflow hears of it or not (this task's supervisor may be dead), the submission goes on: a twin of the
        job may have to be cancelled. :meth:`_announce` pushes the name again.
        """
        self._job_name = job_name
        try:
            self._push_name()
        except Exception as error:
            # Not self.log, which goes through the supervisor.
            log.warning("Airflow could not be told of %s yet: %s", job_name, type(error).__name__)

    def _push_name(self) -> None:
        # A name is pushed once: an XCom is a call to the supervisor, and a submission tells its job several times.
        if self._pushed != self._job_name:
            self._push("job_name", str(self._job_name))
            self._pushed = self._job_name
            self.show_job_name(self._ti, str(self._job_name), self.hook.settings)

    def _announce(self, submission: Submission) -> None:
        self._job_name = submission.job.name
        self._push_name()
        self.show_job(self._ti, submission.job, self.hook.settings)
        self.log.info("%s", submission.reason)
        if submission.surplus:
            self.log.warning("Surplus jobs of this task were cancelled: %s", ", ".join(submission.surplus))
        if submission.uncancelled:
            self.log.error("Surplus jobs could not be cancelled, and may bill: %s", ", ".join(submission.uncancelled))
        if submission.paid_twice:
            from airflow_provider_gemini_batch.triggers.deferral import say_paid_twice

            say_paid_twice(submission.paid_twice, self.log, self._push_settled)

    def _push_settled(self, key: str, value: Any) -> None:
        """Push what came of twins; the job that is gone on with is the one that a kill cancels."""
        if key == "job_name":
            self._know_job(value)
            return
        if key == "paid_twice":
            self._paid_twice = value
        self._push(key, value)

    def _announce_end(self, context: Any, job: BatchJob) -> None:
        from airflow_provider_gemini_batch.task.landed import tell_ended

        self.show_job(self._ti, job, self.hook.settings)
        manifest = {**_manifest_of(job), "paid_twice": self._paid_twice}
        tell_ended(self, context, job, manifest)
        self._push(MANIFEST_KEY, manifest)

    def _push(self, key: str, value: Any) -> None:
        if self._ti is not None:
            self._ti.xcom_push(key=key, value=value)
