# SPDX-License-Identifier: Apache-2.0
"""
The forms in which people write a row, told apart and brought to one: a request, and what is the caller's own beside it.
"""

#   wire    `{"key": "a", "request": {"contents": [...]}}`; members of one's own may be beside
#   inline  `{"request": {...}, "metadata": {"key": "a"}}`
#   bare    `{"contents": [...]}`; for embeddings `{"content": {...}}`
#   short   `{"key": "a", "prompt": "..."}`; for embeddings `{"key": "a", "text": "..."}`

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_gemini_batch.rows.messages import EMBED_MEMBERS, GENERATE_MEMBERS, GENERATION_MEMBERS, camel
from airflow_provider_gemini_batch.rows.problems import RowProblem, kind_of, listed

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.keys import KeyRule

# Beside 'request' these are no columns of a caller's: the service would ignore them there without a word.
_BELONG_INTO_REQUEST = (
    GENERATE_MEMBERS | GENERATION_MEMBERS | {"content", "taskType", "outputDimensionality", "embedContentConfig"}
) - {"model", "labels"}
_BASE = frozenset({"key", "metadata"})


class Row(NamedTuple):
    """
    A row's parts.

    :param request: As it was written.
    :param own: Members that are the caller's: they are not sent to the model, and come back with the answer.
    """

    request: dict[str, Any]
    own: dict[str, Any]


def read_form(row: Mapping[str, Any], keys: KeyRule, *, is_embedding: bool) -> Row:
    """
    Tell the forms apart.

    :raises RowProblem: If it is none of them, or one of another job's kind, or another tool's.
    """
    metadata = row.get("metadata")
    own = own_metadata(metadata) if isinstance(metadata, Mapping) else {}
    members = {name: value for name, value in row.items() if name not in _BASE}
    _refuse_other_rows(members, is_embedding)
    if "request" in members:
        request = members.pop("request")
        _refuse_misplaced({name for name in members if name not in keys.names}, is_embedding)
        return Row(_request(request, is_embedding), {**own, **members})
    own.update((name, members.pop(name)) for name in keys.names if name in members and name not in _BASE)
    return Row(_bare(members, is_embedding), own)


def own_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of an inline row's metadata that are the caller's."""
    return {name: value for name, value in metadata.items() if name != "key"}


def _refuse_other_rows(members: Mapping[str, Any], is_embedding: bool) -> None:
    if "finish_reason" in members and "status" in members:
        raise RowProblem("is a result row, not an input row", "take the row with its key from the input")
    if "body" in members and ("url" in members or "method" in members) and "request" not in members:
        raise RowProblem(
            "is a line for OpenAI's Batch API (custom_id, method, url, body)",
            'write {"key": <custom_id>, "prompt": "..."} or {"key": <custom_id>, "contents": [...]} with the texts of '
            "body.messages, or send the file as it is: GeminiBatchHook.upload_file, and its name as file_name "
            "(Developer API)",
        )
    if "config" in members:
        raise RowProblem(
            "'config' is a form of Google's SDK that the service ignores in files",
            "put its members into "
            + ("'request' (taskType, title, outputDimensionality)" if is_embedding else "'request.generationConfig'"),
        )


def _refuse_misplaced(names: Set[str], is_embedding: bool) -> None:
    misplaced = {name for name in names if camel(name) in _BELONG_INTO_REQUEST}
    if not is_embedding:
        settings = {name for name in misplaced if camel(name) in GENERATION_MEMBERS}
        if settings:
            raise RowProblem(
                f"{listed(settings)} beside 'request'",
                "must stand inside 'request.generationConfig'; a column of your own needs another name",
            )
    if misplaced:
        raise RowProblem(
            f"{listed(misplaced)} beside 'request'", "must stand in 'request'; a column of your own needs another name"
        )


def _request(request: Any, is_embedding: bool) -> dict[str, Any]:
    if not isinstance(request, Mapping):
        raise RowProblem(f"'request' must be an object, not {kind_of(request)}")
    if "config" in request:
        raise RowProblem(
            "'config' is a form of Google's SDK",
            "inside 'request' the service knows "
            + ("taskType, title and outputDimensionality" if is_embedding else "'generationConfig'"),
        )
    return dict(request)


def _bare(members: dict[str, Any], is_embedding: bool) -> dict[str, Any]:
    """Return the request of a row that has its members beside the key."""
    short = "text" if is_embedding else "prompt"
    body = "content" if is_embedding else "contents"
    if short in members:
        text = members.pop(short)
        if body in members:
            raise RowProblem(f"has both {short!r} and {body!r}", "keep one")
        if not isinstance(text, str):
            raise RowProblem(f"{short!r} must be a string, not {kind_of(text)}")
        if not text.strip():
            raise RowProblem(f"{short!r} is empty")
        parts = [{"text": text}]
        members[body] = {"parts": parts} if is_embedding else [{"role": "user", "parts": parts}]
    elif body not in members:
        raise _nothing_to_ask(members, is_embedding)
    _refuse_strange(members, is_embedding)
    return members


def _nothing_to_ask(members: Mapping[str, Any], is_embedding: bool) -> RowProblem:
    short, body = ("text", "content") if is_embedding else ("prompt", "contents")
    other = [name for name in (("prompt", "contents") if is_embedding else ("text", "content")) if name in members]
    if other:
        return other_kind(other[0], f"write {short!r} or {body!r}", is_embedding)
    has = f"it has {listed(members)}" if members else "it is empty"
    return RowProblem(f"has none of 'request', {body!r} and {short!r}", has)


def other_kind(name: str, write: str, is_embedding: bool) -> RowProblem:
    """Return what is wrong with a row whose member *name* belongs to jobs of the other kind."""
    this, other = ("embeddings", "generation") if is_embedding else ("generation", "embeddings")
    operator = "CreateBatchOperator" if is_embedding else "CreateEmbeddingBatchOperator"
    return RowProblem(
        f"{name!r} makes this a row for {other}, and the job is one for {this}", f"{write}, or use {operator}"
    )


def _refuse_strange(members: Mapping[str, Any], is_embedding: bool) -> None:
    known = EMBED_MEMBERS if is_embedding else GENERATE_MEMBERS
    strange = {name for name in members if camel(name) not in known}
    flat = {name for name in strange if camel(name) in GENERATION_MEMBERS}
    if flat and not is_embedding:
        raise RowProblem(f"{listed(flat)} must stand inside 'generationConfig'")
    if strange:
        raise RowProblem(
            f"unknown member{'s' if len(strange) > 1 else ''} {listed(strange)}",
            'members of your own stand beside a \'request\': {"id": 17, "request": {...}}',
        )
