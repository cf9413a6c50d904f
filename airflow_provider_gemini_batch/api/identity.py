# SPDX-License-Identifier: Apache-2.0
"""Whose job is this, and what does it compute? The token by which a job is found again."""

# Neither backend takes an idempotency key for creating a job, but both keep a name (and Vertex AI labels) that we
# choose and can search for. So every submission carries two short hashes, known before anything is sent:
#
# * task: which piece of an Airflow run it is. The same on a retry, after a clear, after a triggerer restart.
# * digest: what is computed. Another one as soon as rows, model or settings differ.
#
# On the Developer API they travel at the end of `displayName`; on Vertex AI also in two labels, which a list filter can
# ask for.

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.api.models import BatchJob, JobSpec

TASK_LABEL = "airflow-task"
INPUT_LABEL = "airflow-input"
MAX_DISPLAY_NAME = 128
"""Characters of a display name; Vertex AI's documented limit (BatchPredictionJob.displayName), kept on both."""

# 64 bits: with a million jobs in a project, two tokens are equal by chance once in forty million such projects. The
# display name has no room for more.
_HEX = re.compile(r"[0-9a-f]{16}")
_MARK = re.compile(r"\s*\[airflow ([0-9a-f]{16})\.([0-9a-f]{16})\]\s*\Z")
_INPUT = re.compile(r"\s*\[input ([0-9a-f]{16})\]\s*\Z")
_MODEL_PREFIXES = ("publishers/google/models/", "models/")


@dataclass(frozen=True)
class SubmissionToken:
    """
    The token of one submission.

    :param task: 16 hex digits of :func:`make_task_id`.
    :param digest: 16 hex digits of :func:`digest_of`.
    :param input: 16 hex digits that name the lines of the user's input file
        (:class:`~airflow_provider_gemini_batch.rows.input_digest.InputDigest`), empty where there is none. It travels
        in the display name, so that a download can tell whether it is given the job's own input. It says nothing of
        whose job it is: two tokens that differ in it alone are equal.
    """

    task: str
    digest: str
    input: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for text in (self.task, self.digest, *([self.input] if self.input else [])):
            if not _HEX.fullmatch(text):
                raise ConfigurationError(f"A submission token is made of 16 hex digits, not {text!r}.")

    def __str__(self) -> str:
        return f"{self.task}.{self.digest}"

    def display_name(self, user_name: str) -> str:
        """
        Put the token behind the user's own name, which is shortened where both do not fit.

        :param user_name: As the user gave it; a token that it already carries is replaced.
        :return: At most :data:`MAX_DISPLAY_NAME` characters, ending in ``[airflow <task>.<digest>]``, before which
            stands ``[input <input>]`` if that is known.
        """
        mark = f"[airflow {self}]"
        if self.input:
            mark = f"[input {self.input}] {mark}"
        # The user's part is what may be cut: a token that lost a digit would never be found, and each retry would
        # submit again.
        name = user_name_of(user_name)[: MAX_DISPLAY_NAME - len(mark) - 1].rstrip()
        return f"{name} {mark}" if name else mark

    def labels(self) -> dict[str, str]:
        """Return the token as labels, for backends whose jobs have some."""
        return {TASK_LABEL: self.task, INPUT_LABEL: self.digest}

    def mark(self, spec: JobSpec, *, has_labels: bool) -> JobSpec:
        """
        Return *spec* with this token on it.

        :param has_labels: Whether the backend's jobs carry labels; the display name carries the token in any case.
        """
        labels = {**spec.labels, **self.labels()} if has_labels else spec.labels
        return replace(spec, display_name=self.display_name(spec.display_name), labels=labels)


@dataclass(frozen=True)
class FormerTask:
    """
    A task half under which a piece of work may have been submitted before its identity changed.

    :param until: UTC epoch seconds of the change, where another installation may have used the same task half: a job
        created later is not ours. None where we noted it ourselves, so that it is certainly ours.
    """

    task: str
    until: float | None = None

    @property
    def is_proven(self) -> bool:
        """Whether jobs with this task half are certainly ours."""
        return self.until is None


@dataclass(frozen=True)
class TaskIdentity:
    """
    A piece of work that is paid for once.

    :param task: 16 hex digits, the same on every attempt.
    :param since: UTC epoch seconds before which no job of it can have been made; None if unknown.
    :param may_have_rivals: Whether another attempt at it may exist or have existed.
    :param earlier_attempts: How many attempts came before this one, where that is known.
    :param former: Under which other task halves it may have been submitted.
    :param indexes: Task halves of the other indexes of a mapped task, where its list may have been re-ordered.
    :param former_digests: What the same rows are called in tokens with a former task half: another version made them.
    :param may_be_reordered: Whether the mapped list may have changed since an earlier attempt, so that a job under our
        own task half with other input may be another index's by now.
    """

    task: str
    since: float | None = None
    may_have_rivals: bool = False
    former: tuple[FormerTask, ...] = ()
    indexes: frozenset[str] = frozenset()
    earlier_attempts: int | None = None
    may_be_reordered: bool = False
    former_digests: frozenset[str] = frozenset()

    @property
    def owned(self) -> tuple[str, ...]:
        """The task halves whose jobs are certainly ours."""
        return (self.task, *(one.task for one in self.former if one.is_proven))

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """The task halves under which jobs of this piece of work are looked for."""
        return tuple(dict.fromkeys((self.task, *(one.task for one in self.former))))

    def owns(self, task: str) -> bool:
        """Whether jobs with this task half are certainly ours."""
        return task in self.owned

    def knows(self, task: str) -> bool:
        """Whether jobs with this task half may concern us."""
        return task in self.all_tasks or task in self.indexes


def make_task_id(
    namespace: str,
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: int = -1,
    salt: str = "",
    loop_index: int | None = None,
) -> str:
    """
    Name a piece of an Airflow run, the same on every attempt at it.

    Try number, task instance id, dates and host stay out on purpose: they change between attempts.

    :param namespace: Tells apart Airflow installations that share a project at Google.
    :param map_index: -1 for a task that is not mapped.
    :param salt: A user changes it to ask for a fresh job.
    :param loop_index: Which pass of a task loop it is; None outside loops.
    :return: 16 hex digits.
    """
    parts: list[Any] = [namespace, dag_id, run_id, task_id, map_index, salt]
    return _short_hash(parts if loop_index is None else [*parts, loop_index])


def digest_of(parts: Mapping[str, Any]) -> str:
    """
    Digest what a job computes.

    :param parts: Plain JSON values by name, e.g. ``kind``, ``model``, ``source`` and settings. A part that is None
        counts as absent; ``model`` counts in its canonical spelling.
    :return: 16 hex digits.
    :raises ConfigurationError: If a part is no JSON value.
    """
    # A part that is absent and one that is None are the same question; so arguments can be added in later versions
    # without making every running job look like another.
    kept = {name: part for name, part in parts.items() if part is not None}
    if isinstance(kept.get("model"), str):
        kept["model"] = canonical_model(kept["model"])
    return _short_hash(kept)


def canonical_model(model: str) -> str:
    """Strip the prefixes that backends take or leave: ``models/x`` and ``publishers/google/models/x`` are ``x``."""
    for prefix in _MODEL_PREFIXES:
        if model.startswith(prefix):
            return model[len(prefix) :]
    return model


def token_of(job: BatchJob) -> SubmissionToken | None:
    """Read the token of a job, from its labels or else its display name; None if it is not one of ours."""
    task, digest = job.labels.get(TASK_LABEL, ""), job.labels.get(INPUT_LABEL, "")
    if _HEX.fullmatch(task) and _HEX.fullmatch(digest):
        return SubmissionToken(task, digest)
    found = _MARK.search(job.display_name)
    return SubmissionToken(found[1], found[2]) if found else None


def with_input_digest(name: str, digest: str) -> str:
    """Return the name of an uploaded file with the digest of its input's lines behind it."""
    return f"{_INPUT.sub('', name)} [input {digest}]".lstrip() if digest else name


def input_digest_in(name: str) -> str:
    """Return the digest of an input's lines that a file's name carries, empty if there is none."""
    found = _INPUT.search(name)
    return found[1] if found else ""


def input_digest_of(job: BatchJob) -> str:
    """Return the 16 hex digits that name the lines of the job's input file, empty if the job does not tell."""
    found = _INPUT.search(_MARK.sub("", job.display_name))
    return found[1] if found else ""


def user_name_of(display_name: str) -> str:
    """Return a display name without our marks."""
    return _INPUT.sub("", _MARK.sub("", display_name)).strip()


def _short_hash(value: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"What is submitted has to be plain JSON: {error}.") from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
