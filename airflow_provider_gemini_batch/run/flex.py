# SPDX-License-Identifier: Apache-2.0
"""Rows asked one by one at the batch price: ``generateContent`` with ``serviceTier: "flex"``."""

# The tier is the Developer API's alone. Eight requests are under way at once, which bounds what a crash can cost.
#
#   what comes of a call                           asked again at once   what it cost
#   ---------------------------------------------  -------------------  ---------------------------------------------
#   an answer                                      no                   by its tokens
#   429, 500, 503: the service sheds load          up to four times     nothing: the service bills no such call
#   no connection: the call never left             up to four times     nothing
#   no reply, one that is cut or no JSON, 502, 504 no                   unknown: it may have run. Caps count its upper
#                                                                       end, the column `cost` is null
#   another refusal (400)                          no                   nothing
#
# Each of them but the answer is a failed row, and the next round asks it again if the reason may pass.

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.flows import exchange
from airflow_provider_gemini_batch.api.models import grpc_code
from airflow_provider_gemini_batch.api.replies import expect_success
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.errors import (
    ApiError,
    AuthError,
    ConfigurationError,
    GeminiBatchError,
    ServerError,
)
from airflow_provider_gemini_batch.rows.results import read_row
from airflow_provider_gemini_batch.run.digest import wire_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.wire import HttpReply
    from airflow_provider_gemini_batch.client.client import GeminiBatchClient
    from airflow_provider_gemini_batch.run.answers import Judge, Record

CONCURRENCY = 8
TIMEOUT = 1200.0

_UNBILLED = (500, 503)
"""Errors of the service itself, which bills no call that ends so (https://ai.google.dev/gemini-api/docs/billing)."""
_DEADLINE = 4


def may_be_billed(error: GeminiBatchError) -> bool:
    """Say whether a call that ended in *error* may have been answered, and billed, all the same."""
    return error.may_have_taken_effect and not (isinstance(error, ServerError) and error.status in _UNBILLED)


class _Unbilled(RetryPolicy):
    """Repeats what cost nothing: to repeat a call whose reply was lost is to pay for it twice."""

    def delay_after(self, error: GeminiBatchError, attempt: int) -> float | None:
        """Say how long to pause, as any policy; None also for a call that may have been billed."""
        return None if may_be_billed(error) else super().delay_after(error, attempt)


SHED = _Unbilled(max_attempts=5, base=5.0, cap=60.0)


def check_backend(backend: Backend) -> None:
    """Raise ConfigurationError where there is no such tier."""
    if not backend.has_flex:
        raise ConfigurationError(
            "retry_tier='flex' works on the Gemini Developer API alone; leave it out for Vertex AI, where the rows "
            "left are asked in another batch."
        )


def ask(
    client: GeminiBatchClient, model: str, rows: Iterable[tuple[int, str, Mapping[str, Any]]], judge: Judge
) -> Iterator[tuple[Record, str, float | None]]:
    """
    Ask rows, and yield their records as the rows come.

    :param rows: Number, digest and request of each.
    """
    own = threading.local()
    backend = client.backend

    def answer(n: int, digest: str, request: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Return a row's line in the form of a batch's result, so that one judge serves both tiers; is it unknown?"""
        if not hasattr(own, "client"):
            own.client = type(client)(client.settings)  # a transport is for one thread
        call = backend.generate_flex(model, request, TIMEOUT)
        key = wire_key(n, digest)
        try:
            return {"key": key, "response": own.client.run(exchange(call, _read, SHED))}, False
        # A refused key is refused for every row: the shard stays open, and is asked again once the key is right.
        except AuthError:
            raise
        except GeminiBatchError as error:
            # Without a reply of the service's the code says "deadline", a passing one.
            code = grpc_code(error.status) if isinstance(error, ApiError) else _DEADLINE
            return {"key": key, "error": {"code": code, "message": str(error)}}, may_be_billed(error)

    with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="gemini-batch-flex") as pool:
        pending: deque[tuple[int, str, Future[tuple[dict[str, Any], bool]]]] = deque()
        refused: AuthError | None = None
        more = iter(rows)
        while True:
            # The oldest is awaited, so that records come in the rows' order and no more than eight calls are open.
            while refused is None and len(pending) < CONCURRENCY and (row := next(more, None)) is not None:
                pending.append((row[0], row[1], pool.submit(answer, *row)))
            if not pending:
                break
            n, digest, future = pending.popleft()
            try:
                line, is_unknown = future.result()
            except AuthError as error:  # what is under way may have been answered all the same
                refused = error
                continue
            record, cost = judge.record(n, read_row(line))
            yield record, digest, None if is_unknown else cost
        if refused is not None:
            raise refused


def _read(reply: HttpReply) -> dict[str, Any]:
    return expect_success(reply).json_object()
