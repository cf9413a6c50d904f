# SPDX-License-Identifier: Apache-2.0
"""Rows asked one by one at the batch price: ``generateContent`` with ``serviceTier: "flex"``."""

# The tier is the Developer API's alone. Eight requests are under way at once, which bounds what a crash can cost. The
# service sheds load with 429 and 503; a row that is shed to the end is a failed row, and the next round asks it again.

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.api.flows import exchange
from airflow_provider_gemini_batch.api.models import grpc_code
from airflow_provider_gemini_batch.api.replies import expect_success
from airflow_provider_gemini_batch.api.retry import RetryPolicy
from airflow_provider_gemini_batch.errors import ApiError, AuthError, ConfigurationError, GeminiBatchError
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
SHED = RetryPolicy(max_attempts=5, base=5.0, cap=60.0)

_DEADLINE = 4


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

    def answer(n: int, digest: str, request: Mapping[str, Any]) -> dict[str, Any]:
        if not hasattr(own, "client"):
            own.client = type(client)(client.settings)  # a transport is for one thread
        call = backend.generate_flex(model, request, TIMEOUT)
        key = wire_key(n, digest)
        try:
            return {"key": key, "response": own.client.run(exchange(call, _read, SHED))}
        # A refused key is refused for every row: the shard stays open, and is asked again once the key is right.
        except AuthError:
            raise
        except ApiError as error:
            # In the form of a batch's result line, so that one judge serves both tiers.
            return {"key": key, "error": {"code": grpc_code(error.status), "message": str(error)}}
        except GeminiBatchError as error:
            # No reply, as after a lost connection: the call may have run and be billed, so that its code says
            # "deadline", a passing one, and not "never sent".
            return {"key": key, "error": {"code": _DEADLINE, "message": str(error)}}

    with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="gemini-batch-flex") as pool:
        pending: deque[tuple[int, str, Future[dict[str, Any]]]] = deque()

        def done() -> tuple[Record, str, float | None]:
            n, digest, future = pending.popleft()
            record, cost = judge.record(n, read_row(future.result()))
            return record, digest, cost

        for n, digest, request in rows:
            pending.append((n, digest, pool.submit(answer, n, digest, request)))
            # The oldest is awaited, so that records come in the rows' order and no more than eight calls are open.
            if len(pending) >= CONCURRENCY:
                yield done()
        while pending:
            yield done()


def _read(reply: HttpReply) -> dict[str, Any]:
    return expect_success(reply).json_object()
