# SPDX-License-Identifier: Apache-2.0
"""What all operators share: the hook, and errors in Airflow's words."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.compat import AirflowFailException, AirflowSkipException, BaseOperator
from airflow_provider_gemini_batch.errors import ConfigurationError, EmptyInputError
from airflow_provider_gemini_batch.links import Linked
from airflow_provider_gemini_batch.operators.templating import Templating
from airflow_provider_gemini_batch.task.xcom_keys import MANIFEST_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook


__all__ = [
    "MANIFEST_KEY",
    "Connected",
    "GeminiBatchOperator",
    "InvalidInputError",
    "TaskTypeArgument",
    "fail_without_retry",
]


class InvalidInputError(ConfigurationError, AirflowFailException):
    """A ConfigurationError in a task: it fails at once, as a retry cannot help."""


@contextmanager
def fail_without_retry(*, skip_empty_input: bool | None = None) -> Iterator[None]:
    """
    Turn a ConfigurationError into one that Airflow does not retry.

    :param skip_empty_input: Turn an input without rows into a skipped task; None where there is no such choice.
    """
    try:
        yield
    except InvalidInputError:
        raise
    except EmptyInputError as error:
        if skip_empty_input:
            raise AirflowSkipException(str(error)) from None
        way_out = "" if skip_empty_input is None else " on_empty_input='skip' skips the task then."
        raise InvalidInputError(f"{error}{way_out}") from None
    except ConfigurationError as error:
        raise InvalidInputError(str(error)) from None  # one traceback in the log says it all


class Connected(Linked):
    """Goes before Airflow's own base: what our operators and the sensor have of their connection."""

    @cached_property
    def hook(self) -> GeminiBatchHook:
        """The hook; looked up when the task runs."""
        from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

        return GeminiBatchHook(self.gemini_batch_conn_id)


class GeminiBatchOperator(Connected, Templating, BaseOperator):
    """
    Base of the operators of this package.

    :param gemini_batch_conn_id: Connection of type ``gemini_batch`` or ``google_cloud_platform``.
    """

    ui_color = "#e8f0fe"
    template_fields: Sequence[str] = ("gemini_batch_conn_id",)

    def __init__(self, *, gemini_batch_conn_id: str = "gemini_batch_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gemini_batch_conn_id = gemini_batch_conn_id

    def execute(self, context: Any) -> Any:
        """Run the task."""
        self.show_page(context.get("ti"))
        choice = getattr(self, "on_empty_input", None)
        with fail_without_retry(skip_empty_input=None if choice is None else choice == "skip"):
            return self.run_task(context)

    def run_task(self, context: Any) -> Any:
        """Do the operator's work."""
        raise NotImplementedError


class _WithTaskType(tuple[str, ...]):
    """Names of template fields, of which ``task_type`` is found too."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__("embed_task_type" if name == "task_type" else name)


class TaskTypeArgument:
    """
    For the operators with an argument ``task_type``, which they keep as ``embed_task_type``.

    ``BaseOperator`` has a property of the name ``task_type``. A mapped operator keeps its arguments by their own names,
    and waits only for tasks whose output is in an argument that its template fields hold
    (``MappedOperator.iter_mapped_dependencies``): there ``task_type`` has to be found, though no such attribute is
    rendered. Subclasses by users, with fields of their own, need it as well.
    """

    template_fields: Sequence[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.template_fields, (list, tuple)):  # Airflow has its own word for a text
            cls.template_fields = _WithTaskType(cls.template_fields)
