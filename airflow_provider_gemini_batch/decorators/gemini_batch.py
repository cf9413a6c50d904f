# SPDX-License-Identifier: Apache-2.0
"""
A function that returns or yields rows, as a run: ``@task.gemini_batch`` and ``@task.gemini_embedding_batch``.

::

    @task.gemini_batch(model="gemini-3.5-flash-lite", prompt="Classify: {{ row.review }}", key="id", output_path="...")
    def classify(day):
        yield {"id": 1, "review": "..."}

The function runs when the input is read, once for a generation: not again after a deferral or a retry.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.compat import DecoratedOperator, task_decorator_factory
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.operators.run_batch import RunBatchOperator, RunEmbeddingBatchOperator
from airflow_provider_gemini_batch.run.sources import RowsSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.input_table import Table
    from airflow_provider_gemini_batch.run.sources import Source


@dataclass(frozen=True)
class _FunctionSource:
    """The rows that a function gives; it is called when they are read, however often a run asks for its source."""

    rows: Callable[[], Iterable[Any]]

    def read(self, engine: DuckDBPyConnection, folder: str) -> Table:
        """Call the function and read its rows."""
        return RowsSource(self.rows()).read(engine, folder)


class _RowsOfFunction:
    """What both decorated operators do: the rows are what the function gives."""

    python_callable: Callable[..., Any]
    op_args: Sequence[Any]
    op_kwargs: dict[str, Any]
    _task_context: Any

    def _arguments(self) -> dict[str, Any]:
        # The check wants exactly one source to be given. The rows themselves come from the function, once they are
        # read.
        return {**super()._arguments(), "rows": ()}  # type: ignore[misc]

    def _source(self) -> Source:
        return _FunctionSource(self._rows)

    def _rows(self) -> Iterable[Any]:
        rows = self.python_callable(*self.op_args, **self._filled_in())
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
            name = getattr(self.python_callable, "__name__", "the function")
            raise ConfigurationError(f"{name} must return or yield rows, not {type(rows).__name__}.")
        return rows

    @staticmethod
    def xcom_push(context: Any, key: str, value: Any, **_: Any) -> None:
        """Push an XCom: the decorated operator of Airflow 3.0 asks for this, which its own base has no longer."""
        context["ti"].xcom_push(key=key, value=value)

    def _filled_in(self) -> dict[str, Any]:
        """Return the function's arguments, with what it asks of the context by name, as ``@task`` does."""
        given = dict(self.op_kwargs)
        # Positional arguments are bound already: the names of the others may be asked of the context.
        parameters = list(inspect.signature(self.python_callable).parameters.values())
        for parameter in parameters[len(self.op_args) :]:
            if parameter.name in self._task_context and given.get(parameter.name) is None:
                given[parameter.name] = self._task_context[parameter.name]
        return given


class _DecoratedRunBatch(_RowsOfFunction, DecoratedOperator, RunBatchOperator):
    custom_operator_name = "@task.gemini_batch"
    template_fields: Sequence[str] = (*RunBatchOperator.template_fields, "op_args", "op_kwargs")


class _DecoratedRunEmbeddingBatch(_RowsOfFunction, DecoratedOperator, RunEmbeddingBatchOperator):
    custom_operator_name = "@task.gemini_embedding_batch"
    template_fields: Sequence[str] = (*RunEmbeddingBatchOperator.template_fields, "op_args", "op_kwargs")


def gemini_batch_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """
    Run what a function returns or yields as rows; see :class:`~.operators.run_batch.RunBatchOperator`.

    :param python_callable: Returns or yields dicts.
    :param kwargs: The operator's arguments, without those of the rows.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_DecoratedRunBatch, **kwargs
    )


def gemini_embedding_batch_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """
    Embed what a function returns or yields as rows; see :class:`~.operators.run_batch.RunEmbeddingBatchOperator`.

    :param python_callable: Returns or yields dicts.
    :param kwargs: The operator's arguments, without those of the rows.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_DecoratedRunEmbeddingBatch, **kwargs
    )
