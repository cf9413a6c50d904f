# SPDX-License-Identifier: Apache-2.0
"""What a user asks to have computed: the arguments of a job, spelt once, and what can be wrong with them."""

# No I/O: the rows are read by `client/prepare.py`.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from airflow_provider_gemini_batch.api.models import JobSpec, Kind
from airflow_provider_gemini_batch.errors import ConfigurationError, EmptyInputError

if TYPE_CHECKING:
    import os

    from airflow_provider_gemini_batch.api.backend import Backend

_SOURCES = ("inlined_requests", "input_path", "file_name", "gcs_uri", "bigquery_uri")

ROW_CHOICES = {"on_empty_input": ("fail", "skip"), "on_bad_row": ("fail", "land")}
"""What may be asked for where there are no rows, or one cannot be sent."""


class RequestArguments(TypedDict, total=False):
    r"""
    What may be said of any job beside its model. Exactly one of the first five, the source of the rows, is given.

    :param inlined_requests: Rows as a list of dicts, in any of the forms that the README lists; above 4 MiB they travel
        as a file.
    :param input_path: Local path or object-storage URI of a JSONL file with rows.
    :param file_name: What an upload returned, ``files/...`` or ``gs://...``.
    :param gcs_uri: ``gs://...`` of a JSONL object in wire form (Vertex AI).
    :param bigquery_uri: ``bq://project.dataset.table`` (Vertex AI).
    :param key: The member by which a row is known, or a list of members.
    :param on_empty_input: What an input without rows does: ``fail``, or in a task ``skip``.
    :param on_bad_row: Whether one row that cannot be sent fails the task (``fail``), or is left out, and ``land``\ s as
        failed with its reason when the answers do.
    :param destination: ``gs://`` prefix or ``bq://`` table for the answers (Vertex AI).
    :param display_name: Shown at Google.
    :param priority: Higher runs first; the Developer API alone knows it.
    :param labels: On the job, on Vertex AI only.
    :param webhook_config: ``{"uris": [...], "userMetadata": {...}}``; the Developer API alone knows it.
    """

    inlined_requests: Sequence[Mapping[str, Any]] | None
    input_path: str | os.PathLike[str] | None
    file_name: str | None
    gcs_uri: str | None
    bigquery_uri: str | None
    key: str | Sequence[str]
    on_empty_input: str
    on_bad_row: str
    destination: str | None
    display_name: str | None
    priority: int | None
    labels: Mapping[str, str] | None
    webhook_config: Mapping[str, Any] | None


class GenerateArguments(RequestArguments, total=False):
    """
    What may be said of a job that generates, beside its model.

    :param generation_config: For every row that does not set the same member itself.
    :param system_instruction: Text or Content, for every row that has none.
    """

    generation_config: Mapping[str, Any] | None
    system_instruction: str | Mapping[str, Any] | None


class EmbedArguments(RequestArguments, total=False):
    """
    What may be said of a job that embeds, beside its model.

    :param task_type: E.g. ``RETRIEVAL_DOCUMENT``; gemini-embedding-2 ignores it.
    :param title: Of the texts, for ``RETRIEVAL_DOCUMENT``.
    :param output_dimensionality: Numbers in each vector.
    """

    task_type: str | None
    title: str | None
    output_dimensionality: int | None


@dataclass(frozen=True)
class Placed:
    """
    Where rows lie for a job: one member is set.

    :param uploaded: The file that was sent or found.
    :param sent: Whether this very attempt sent it. Another task with the same rows may have found it since.
    """

    requests: tuple[Mapping[str, Any], ...] | None = None
    file_name: str | None = None
    gcs_uri: str | None = None
    bigquery_uri: str | None = None
    uploaded: str | None = None
    sent: bool = False


@dataclass(frozen=True)
class JobRequest:
    """
    A job as a user asks for it.

    :param kind: ``generate`` or ``embed``.
    :param model: E.g. ``gemini-3.5-flash-lite``.

    All other members: :class:`GenerateArguments` and :class:`EmbedArguments`.
    """

    kind: Kind
    model: str
    inlined_requests: Sequence[Mapping[str, Any]] | None = None
    input_path: str | os.PathLike[str] | None = None
    file_name: str | None = None
    gcs_uri: str | None = None
    bigquery_uri: str | None = None
    destination: str | None = None
    display_name: str | None = None
    generation_config: Mapping[str, Any] | None = None
    system_instruction: str | Mapping[str, Any] | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None
    priority: int | None = None
    labels: Mapping[str, str] | None = None
    webhook_config: Mapping[str, Any] | None = None
    key: str | Sequence[str] = "key"
    on_empty_input: str = "fail"
    on_bad_row: str = "fail"

    @property
    def row_settings(self) -> dict[str, Any]:
        """The settings that go into rows, without those not given."""
        names = ("generation_config", "system_instruction", "task_type", "title", "output_dimensionality")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def remote_file(self) -> str | None:
        """The file at Google that holds the rows, ``files/...`` or ``gs://...``; None if they are somewhere else."""
        return self.file_name if self.file_name is not None else self.gcs_uri

    def check(self, backend: Backend) -> None:
        """Raise ConfigurationError naming everything that cannot work, before anything is read or sent."""
        # Every problem in one error, as each try of a DAG costs its author minutes.
        problems = []
        if not isinstance(self.model, str) or not self.model.strip():
            problems.append(f"model must name a Gemini model, not {self.model!r}")
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            problems.append(
                f"give exactly one of {', '.join(_SOURCES)}, not {' and '.join(given) if given else 'none of them'}"
            )
        problems += [f"{name} is empty" for name in given if getattr(self, name) == ""]
        remote = [name for name in given if name in ("file_name", "gcs_uri", "bigquery_uri")]
        if remote and self.row_settings:
            problems.append(
                f"{', '.join(self.row_settings)} cannot be applied to rows that already lie at Google ({remote[0]}); "
                "put them into the rows, or give the rows as input_path or inlined_requests"
            )
        if remote and (self.key != "key" or self.on_bad_row != "fail"):
            problems.append(f"key and on_bad_row cannot be applied to rows that already lie at Google ({remote[0]})")
        for name, choices in ROW_CHOICES.items():
            if getattr(self, name) not in choices:
                problems.append(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        # What cannot work is refused; what the backend merely lacks (labels, say) is left out with a warning
        # (`backend.ignored`).
        problems += [why for name, why in backend.unsupported.items() if getattr(self, name) is not None]
        for name, scheme in (("gcs_uri", "gs://"), ("bigquery_uri", "bq://")):
            value = getattr(self, name)
            if isinstance(value, str) and value and not value.startswith(scheme):
                problems.append(f"{name} must begin with {scheme}, not {value!r}")
        if self.destination is not None and not str(self.destination).startswith(("gs://", "bq://")):
            problems.append(f"destination must be gs://bucket/prefix or bq://project.dataset, not {self.destination!r}")
        rows = self.inlined_requests
        if rows is not None and (isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable)):
            problems.append(f"inlined_requests must be a list of rows, not {_kind(rows)}; for a file use input_path")
        if self.generation_config is not None and not isinstance(self.generation_config, Mapping):
            problems.append(f"generation_config must be a dict, not {_kind(self.generation_config)}")
        if self.priority is not None and (isinstance(self.priority, bool) or not isinstance(self.priority, int)):
            problems.append(f"priority must be a whole number, not {self.priority!r}")
        dimensions = self.output_dimensionality
        if dimensions is not None and (
            isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1
        ):
            problems.append(f"output_dimensionality must be a whole number above 0, not {dimensions!r}")
        if self.webhook_config is not None and not isinstance(self.webhook_config, Mapping):
            problems.append(f"webhook_config must be a dict, not {_kind(self.webhook_config)}")
        if self.labels is not None and not isinstance(self.labels, Mapping):
            problems.append(f"labels must be a dict, not {_kind(self.labels)}")
        if self.display_name is not None and not isinstance(self.display_name, str):
            problems.append(f"display_name must be a text, not {self.display_name!r}")
        for name in ("model", "display_name", "webhook_config"):
            if problem := unwritable(name, getattr(self, name)):
                problems.append(problem)
        if problems:
            raise ConfigurationError("; ".join(problems) + ".")
        if isinstance(rows, (list, tuple)) and not rows:
            raise EmptyInputError("inlined_requests is empty: there are no input rows.")

    def identity(self, source: str) -> dict[str, Any]:
        """
        Return what the digest of a submission is made of.

        :param source: Names the rows, by their content where that is known.
        """
        # Without name, labels and priority: a job that computes the same is the same job, however it is called.
        # Settings for all rows are part of the rows, and so of *source*.
        return {"kind": self.kind, "model": self.model, "destination": self.destination, "source": source}

    def spec(self, placed: Placed, display_name: str) -> JobSpec:
        """Return the job to submit with its rows at *placed*."""
        return JobSpec(
            model=self.model,
            kind=self.kind,
            display_name=display_name,
            requests=placed.requests,
            file_name=placed.file_name,
            gcs_uri=placed.gcs_uri,
            bigquery_uri=placed.bigquery_uri,
            destination=self.destination,
            priority=self.priority,
            labels=dict(self.labels or {}),
            webhook_config=self.webhook_config,
        )


def _kind(value: Any) -> str:
    """Name a value's type; of a text, what made one of a template, and the ways to get the object itself."""
    if not isinstance(value, str):
        return type(value).__name__
    return (
        "a text (a template with more than one expression makes one, as does one without native rendering: pass the "
        "upstream task's .output, or set render_template_as_native_obj=True on the DAG)"
    )


def unwritable(name: str, value: Any) -> str:
    """Say why an argument cannot be sent, or nothing."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as fault:
        return f"{name} cannot be written as JSON ({fault})"
    return ""
