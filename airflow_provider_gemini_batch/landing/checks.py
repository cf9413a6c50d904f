# SPDX-License-Identifier: Apache-2.0
"""May these results be written? Only if they are all there, and belong to the input."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow_provider_gemini_batch.errors import ConfigurationError, InputMismatchError, ResultsIncompleteError
from airflow_provider_gemini_batch.files.paths import local_path
from airflow_provider_gemini_batch.landing.join_input import JoinInput
from airflow_provider_gemini_batch.rows.input_digest import same_content, same_order

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.landing.facts import JobFacts
    from airflow_provider_gemini_batch.landing.join_input import InputCursor, KeysOnly
    from airflow_provider_gemini_batch.landing.reading import ResultReading


def check_paths(*paths: str | os.PathLike[str] | None) -> None:
    """Refuse paths that name one file twice."""
    given = [os.fspath(path) for path in paths if path is not None]
    # A link may give one file two names: the output would replace the very input that it was joined with.
    real = [path if (local := local_path(path)) is None else os.path.realpath(local) for path in given]
    if len(set(real)) < len(real):
        raise ConfigurationError("output_path, errors_path and input_path must be different files.")


def check_all_came(job: JobFacts, reading: ResultReading, repeated: int) -> None:
    """
    Refuse a transfer that brought fewer answers than there are.

    :param repeated: Answers whose key another one had before.
    """
    # The rows of a job that was made from an input of ours have a key each: what repeats one stands for no other row.
    repeated = repeated if job.input_digest else 0
    arrived = reading.answers - repeated
    if job.answers is not None and arrived < job.answers:
        came = f"{arrived:,} arrived" if reading.answers else "what was sent holds none that can be read"
        came += f" ({repeated:,} came twice)" if repeated else ""
        raise ResultsIncompleteError(
            f"{job.name} counts {job.answers:,} answers, and {came}. Nothing was written; a retry reads them again. If "
            "this stays so, the counts are wrong: accept what there is with check_counts=False."
        )
    # Without counts this is all that can be known: a proxy's error page has lines, too, perhaps in place of one shard.
    if job.answers is None and reading.foreign and reading.answers and job.name:
        raise ResultsIncompleteError(
            f"{reading.foreign:,} lines of what the service sent as the answers of {job.name} are none, as of a "
            "proxy's page in place of some. Nothing was written; a retry reads them again. If this stays so, accept "
            "what there is with check_counts=False."
        )
    if job.answers is None and reading.lines and not reading.answers and job.name:
        raise ResultsIncompleteError(
            f"What the service sent as the answers of {job.name} holds none that can be read. Nothing was written; a "
            "retry reads them again."
        )


def check_belongs(
    job: JobFacts,
    reading: ResultReading,
    cursor: InputCursor,
    source: JoinInput | KeysOnly,
    *,
    total: int,
    matched: int,
    unknown: int,
) -> None:
    """
    Refuse an input that the job was not made from: answers would stand beside prompts of others.

    :param total: Rows of the input.
    :param matched: Those that an answer was found for.
    :param unknown: Answers that belong to no row.
    """
    why = ""
    mark, given = job.input_digest, source.mark()
    if mark and given and not same_content(mark, given) and isinstance(source, JoinInput):
        given = next((one for one in source.other_marks() if same_content(mark, one)), given)
    # The strongest evidence first. Only where a job carries no digest of its input do counts and keys have to do.
    if mark and given and not same_content(mark, given):
        why = "the input holds other rows than the job was made from"
    elif mark and given and cursor.numbered and not same_order(mark, given):
        why = "the rows stand in another order than in the input of the job, and rows without a key are known by it"
    elif reading.by_position and (not mark or reading.by_position != total):
        # Google promises the input's order, and has been seen to shuffle (googleapis/python-genai#1909). A job that
        # knows its input was given a key for each row; where all of them are gone, there is but that promise.
        why = f"{reading.by_position:,} answers without a key could be told only by their place, and {total:,} rows too"
    elif not mark and reading.echo is not None and (key := reading.echo.another()):
        why = f"the answer to row {key!r} repeats another prompt than the input has there"
    elif reading.answers and total and not matched:
        why = "no answer belongs to any of its rows"
    elif total - matched > matched and unknown > matched:
        why = f"of {total:,} rows {matched:,} have an answer, and {unknown:,} answers belong to none of them"
    if why:
        raise InputMismatchError(
            f"This is not the input of {job.name or 'this job'}: {why}. Nothing was written. Give the input_path that "
            "the job was created with, as it was then, or leave input_path out; check_input=False joins anyway."
        )
