# SPDX-License-Identifier: Apache-2.0
"""Which job does a piece of work have? It is found, or else started, and no other one runs beside it."""

# The conversation itself is `lifecycle/submit.py`. Here its parts are brought together: the rows (`prepare.py`), the
# token that their digest makes, and what a caller wants to hear on the way.

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_gemini_batch.api.identity import SubmissionToken, TaskIdentity, digest_of
from airflow_provider_gemini_batch.client.counting import with_counts
from airflow_provider_gemini_batch.client.former_digest import digest_of_0_1_0
from airflow_provider_gemini_batch.client.prepare import check_model, prepared, row_settings
from airflow_provider_gemini_batch.client.session import Session
from airflow_provider_gemini_batch.connection.urls import is_google
from airflow_provider_gemini_batch.cost.row_sample import sample_of
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.lifecycle.cut_short import CutShort
from airflow_provider_gemini_batch.lifecycle.gone_file import GoneFile, look_or_find
from airflow_provider_gemini_batch.lifecycle.submission import SubmitPolicy
from airflow_provider_gemini_batch.lifecycle.submit import submit
from airflow_provider_gemini_batch.lifecycle.twins import Choice, paid_twins, reconcile
from airflow_provider_gemini_batch.lifecycle.upload import Upload, look_at_remote
from airflow_provider_gemini_batch.lifecycle.uploaded import find_again, uploaded_input

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BatchJob, RemoteFile
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.client.session import Log
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings
    from airflow_provider_gemini_batch.cost.input_measure import InputMeasure
    from airflow_provider_gemini_batch.lifecycle.request import JobRequest, Placed
    from airflow_provider_gemini_batch.lifecycle.submission import Submission
    from airflow_provider_gemini_batch.lifecycle.twins import Reconciled, TwinWatch
    from airflow_provider_gemini_batch.lifecycle.upload import PreparedInput
    from airflow_provider_gemini_batch.lifecycle.uploaded import UploadedInput

_LOG = logging.getLogger(__name__)


class SubmittingSession(Session):
    """
    A connection in use that starts jobs, each of them once.

    :param settings: From :func:`~airflow_provider_gemini_batch.connection.reading.settings_from_connection`.
    :param log: Where progress and warnings go.
    """

    def __init__(self, settings: ConnectionSettings, *, log: Log = _LOG) -> None:
        super().__init__(settings)
        self._log = log

    def submit(
        self,
        request: JobRequest,
        *,
        task: str | TaskIdentity,
        since: float | None = None,
        known_names: Sequence[str] = (),
        on_existing_job: str = "replace",
        may_have_rivals: bool = False,
        intent_at: float | None = None,
        exclude: frozenset[str] = frozenset(),
        policy: SubmitPolicy | None = None,
        remember: Callable[[str, str], None] | None = None,
        on_token: Callable[[str], None] | None = None,
        digest: str | None = None,
        verdicts: Mapping[str, bool] | None = None,
        uploaded: UploadedInput | None = None,
        on_uploaded: Callable[[UploadedInput], None] | None = None,
        may_create: Callable[[InputMeasure | None, Sequence[BatchJob], int], None] | None = None,
        reads_earlier: bool = True,
        counts_tokens: bool = False,
        listed: tuple[float, Sequence[BatchJob]] | None = None,
    ) -> Submission:
        """
        Find the job of a piece of work, or else start it: however often it is called, one job is billed.

        :param task: The piece of work, or just 16 hex digits that name it (:func:`~.api.identity.make_task_id`).
        :param since: UTC epoch seconds; no own job can be older.
        :param may_have_rivals: Whether another attempt at the same work may be under way.
        :param intent_at: UTC epoch seconds at which an earlier attempt was about to create, if its job is not known.
        :param on_token: Told the token before anything is sent.
        :param digest: 16 hex digits that say what is computed, where the caller knows that better than the bytes do.
        :param verdicts: Which ended jobs a cancel cut short, as far as earlier attempts noted it.
        :param uploaded: Rows that an earlier call left at Google; if they are there still, nothing is read again.
        :param on_uploaded: Told where the rows lie, before the create.
        :param may_create: Told what is known of the rows (None where they were not read), and this task's own jobs of
            before, and how many create calls had no answer, if a job has to be created; what it raises ends the
            submission.
        :param reads_earlier: Whether *may_create* counts what those jobs have answered: each is read for it.
        :param counts_tokens: Whether the tokens of a few rows are counted first (``countTokens``), for *may_create*.
        :param listed: When the caller has read the list, and this task's jobs in it: a look that is not made again.
        """
        note = remember or (lambda what, value: None)
        # A caller outside of Airflow has a name for its work and nothing else.
        work = TaskIdentity(task, since, may_have_rivals) if isinstance(task, str) else task
        if may_have_rivals:
            work = replace(work, may_have_rivals=True)
        self._say_what_is_ignored(request)
        policy = policy or SubmitPolicy()
        gone: list[GoneFile] = []
        known: list[InputMeasure | None] = []
        look = partial(self._look_or_find, gone, request, work, policy, known_names, exclude)
        with self._source(request, uploaded, look) as source:
            digest = gone[0].digest if gone else digest
            token = SubmissionToken(work.task, digest or digest_of(source.identity), source.input_digest)
            if digest is None:
                work = self._with_former_digest(work, request)
            if on_token is not None:
                # Before anything is sent: whoever is killed from here on leaves a note by which its job can be found.
                on_token(str(token))
            name = request.display_name or f"airflow {request.kind} batch"
            upload = Upload(source, self.backend, self.retry, name)
            submitting = submit(
                self.backend,
                lambda placed: request.spec(placed, name),
                partial(_placed, request, source, upload, gone, known, on_uploaded),
                token,
                identity=work,
                known_names=known_names,
                on_existing_job=on_existing_job,
                intent_at=intent_at,
                exclude=exclude,
                policy=policy,
                now=time.time,
                remember=note,
                was_cut_short=self._cut_short(verdicts, note),
                may_create=may_create and self._asking(may_create, request, source, known, counts_tokens),
                reads_earlier=reads_earlier,
                listed=listed,
            )
            # Inside the `with`: the prepared copy has no name, and is gone once its file is closed.
            return self.run(upload.removed_if_unused(submitting))

    def _look_or_find(
        self,
        gone: list[GoneFile],
        request: JobRequest,
        work: TaskIdentity,
        policy: SubmitPolicy,
        known_names: Sequence[str],
        exclude: frozenset[str],
        name: str,
    ) -> RemoteFile | None:
        """Look at the file that holds the rows; of one that is gone *gone* says which job was made from it."""
        seen = look_or_find(self.backend, name, request, work, policy, known_names=known_names, exclude=exclude)
        found = self.run(seen)
        if isinstance(found, GoneFile):
            gone.append(found)
            return None
        return found

    def _with_former_digest(self, work: TaskIdentity, request: JobRequest) -> TaskIdentity:
        """Return *work* with what 0.1.0 called the same rows, as an attempt of that version may have left a job."""
        # Reads the whole input once more, so only where an earlier attempt can have left a job by that name.
        if not (work.former and work.may_have_rivals):
            return work
        former = digest_of_0_1_0(request, row_settings(request, self.backend.name))
        return replace(work, former_digests=frozenset({former} if former else ()))

    def measure(self, request: JobRequest, *, counts_tokens: bool = False) -> InputMeasure | None:
        """
        Read and check a request's rows without making anything; None for rows that lie at Google.

        :param counts_tokens: Whether the tokens of a few rows are counted (``countTokens``); else nothing is sent.
        :raises ConfigurationError: For what cannot work.
        """
        self._say_what_is_ignored(request)
        with self._source(
            request, None, lambda name: self.run(look_at_remote(self.backend, name, self.retry))
        ) as source:
            return self._measured(request, source, counts_tokens)

    def _measured(self, request: JobRequest, source: PreparedInput, counts_tokens: bool) -> InputMeasure | None:
        if source.measure is None or source.measure.counted or not counts_tokens:
            return source.measure
        lines = source.sample if source.file is None else sample_of(source.file)
        return with_counts(self, request.model, source.measure, lines, self._log)

    def _asking(
        self,
        may_create: Callable[[InputMeasure | None, Sequence[BatchJob], int], None],
        request: JobRequest,
        source: PreparedInput,
        known: list[InputMeasure | None],
        counts_tokens: bool,
    ) -> Callable[[Sequence[BatchJob], int], None]:
        """Return *may_create* with what is *known* of the rows: found out when it is first asked, and not again."""
        # A create call may be repeated, and the rows are the same: counting their tokens sends them to the service.

        def ask(jobs: Sequence[BatchJob], lost: int) -> None:
            if not known:
                known.append(self._measured(request, source, counts_tokens))
            may_create(known[0], jobs, lost)

        return ask

    def check_model(self, model: str) -> None:
        """
        Log what is known against a model: that it retires, or that another one answers in its place.

        :raises ConfigurationError: If the service refuses it to everybody.
        """
        check_model(model, self.backend, is_own_host=self._is_own_host)

    @property
    def _is_own_host(self) -> bool:
        return not is_google(urlsplit(self.settings.base_url).hostname or "")

    @contextmanager
    def _source(
        self, request: JobRequest, uploaded: UploadedInput | None, look: Callable[[str], RemoteFile | None]
    ) -> Iterator[PreparedInput]:
        """Yield the rows as they lie at Google, or else prepared on disk."""
        found = None
        if uploaded is not None:
            # The rows are not read again, but the arguments may have been changed by a deployment since.
            request.check(self.backend)
            found = self.run(find_again(self.backend, request, uploaded, self.retry, time.time()))
            text = "Going on with the rows in %s." if found else "The rows in %s do not serve any more: preparing anew."
            self._log.info(text, uploaded.file_name)
        if found is not None:
            yield found
            return
        with prepared(request, self.backend, look, is_own_host=self._is_own_host) as source:
            yield source

    def reconcile(
        self,
        job_name: str,
        watch: TwinWatch,
        *,
        known: Collection[str] = (),
        exclude: Collection[str] = frozenset(),
        keep: bool = False,
        hold_until_age: float = 0.0,
        hold_until: float = math.inf,
        verdicts: Mapping[str, bool] | None = None,
        remember: Callable[[str, str], None] | None = None,
    ) -> Reconciled:
        """
        Look once for twins of a job, cancel all but one, and say whether several have run; see
        :func:`~airflow_provider_gemini_batch.lifecycle.twins.reconcile`.
        """
        return self.run(
            reconcile(
                self.backend,
                job_name,
                watch,
                reads=self.retry,
                cancels=self.retry,
                was_cut_short=self._cut_short(verdicts, remember or (lambda what, value: None)),
                now=time.time,
                known=known,
                exclude=exclude,
                keep=keep,
                hold_until_age=hold_until_age,
                hold_until=hold_until,
            )
        )

    def paid_twins(self, job: BatchJob) -> tuple[str, ...]:
        """Name the jobs that ran for the same rows as an ended one, that one first; nothing if it is alone."""
        # Nothing is cancelled with it: it only says which of the jobs have usable answers.
        cut_short = self._cut_short(None, lambda what, value: None)
        choice = Choice(self.backend, self.retry, self.retry, cut_short, time.time)
        try:
            return self.run(paid_twins(self.backend, job, choice))
        except GeminiBatchError as error:
            self._log.info("Whether another job ran for the rows of %s could not be looked up. %s", job.name, error)
            return ()

    def _cut_short(self, verdicts: Mapping[str, bool] | None, remember: Callable[[str, str], None]) -> CutShort:
        def keep(job_name: str, was_cut_short: bool) -> None:
            remember("cut_short" if was_cut_short else "whole", job_name)

        return CutShort(self.backend, self.retry, dict(verdicts or {}), keep)

    def _say_what_is_ignored(self, request: JobRequest) -> None:
        """The same DAG runs on both backends, so what one of them lacks is said and left out."""
        ignored = [name for name in self.backend.ignored if getattr(request, name)]
        if ignored:
            names, backend = ", ".join(ignored), self.backend.name
            self._log.warning("%s: not known to this backend (%s), left out.", names, backend)


def _placed(
    request: JobRequest,
    source: PreparedInput,
    upload: Upload,
    gone: Sequence[GoneFile],
    known: Sequence[InputMeasure | None],
    on_uploaded: Callable[[UploadedInput], None] | None,
) -> Flow[Placed]:
    """Have the rows at Google, once a job has to be created."""
    if gone:
        raise gone[0].error
    # Between the upload and the create: a create that is refused for a quota then costs no second upload.
    placed = yield from upload.place()
    measure = known[0] if known else source.measure
    if on_uploaded is not None and (found := uploaded_input(request, source, placed, measure)) is not None:
        on_uploaded(found)
    return placed
