# SPDX-License-Identifier: Apache-2.0
"""
``countTokens``: what goes into the call, and what is read from its answer. It costs nothing and makes nothing.

Sources: https://ai.google.dev/api/tokens (models.countTokens);
https://aiplatform.googleapis.com/$discovery/rest?version=v1 (publishers.models.countTokens).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.replies import expect_success
from airflow_provider_gemini_batch.errors import ReplyFormatError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.wire import HttpReply


def counted_members(request: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """
    Return the members of a request that make tokens, or None for one that cannot be counted.

    Whether embedding models count, no source says: their requests, which have ``content``, are not sent.

    :param names: Members that the call takes beside ``contents``.
    """
    if not isinstance(request.get("contents"), list):
        return None
    return {name: request[name] for name in ("contents", *names) if request.get(name) is not None}


def read_token_count(reply: HttpReply) -> int:
    """
    Read the tokens of a request.

    :raises ReplyFormatError: If there is no count above 0: no request is empty, so this is not the service's answer.
    """
    found = expect_success(reply).json_object().get("totalTokens")
    if isinstance(found, int) and not isinstance(found, bool) and found > 0:
        return found
    raise ReplyFormatError(
        f"The service answered HTTP {reply.status} without a count of tokens: {reply.excerpt()!r}",
        excerpt=reply.excerpt(),
    )
