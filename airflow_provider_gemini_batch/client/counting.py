# SPDX-License-Identifier: Apache-2.0
"""
How many tokens do a few of the rows hold? The service is asked, before a job is estimated; it costs nothing.

The answer narrows an estimate and is never needed: whatever goes wrong (no permission, no such method behind a gateway,
no quota, no answer in time) ends the asking, and the estimate goes by bytes. No call is repeated.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.api.flows import exchange
from airflow_provider_gemini_batch.api.retry import NO_RETRY
from airflow_provider_gemini_batch.errors import GeminiBatchError
from airflow_provider_gemini_batch.transport.bounds import REPLY_TIMEOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_gemini_batch.api.backend import Backend
    from airflow_provider_gemini_batch.api.wire import Flow
    from airflow_provider_gemini_batch.client.session import Log, Session
    from airflow_provider_gemini_batch.cost.input_measure import Counted, InputMeasure

WITHIN = 10.0
"""Seconds for all calls; what is counted by then counts."""

CALL_WITHIN = 2.0
"""Most seconds of silence after which a call is given up; a reply that trickles may take a few times as long."""

LEAST_ROWS = 4
"""Rows that stand for others; where the asking ends before there are so many, bytes say as much."""

_decode = msgspec.json.Decoder().decode


def with_counts(session: Session, model: str, measure: InputMeasure, lines: Iterable[bytes], log: Log) -> InputMeasure:
    """
    Return what is known of rows, with the tokens of some of them.

    :param lines: Some of the rows as they are sent: ``{"key": ..., "request": {...}}``.
    """
    requests = [(len(line), _request(line)) for line in lines if line.strip()]
    return replace(measure, counted=counted(session, model, requests, log))


def _request(line: bytes) -> Any:
    try:
        row = _decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None  # the service says what is wrong with it, if a job is made of it
    return row.get("request") if isinstance(row, dict) else None


def counted(session: Session, model: str, requests: Iterable[tuple[int, Any]], log: Log) -> Counted:
    """
    Return bytes and tokens of requests as far as the service counts them; nothing if they are too few to stand for all.

    :param requests: Bytes of each row, and its request.
    """
    asked = _spread(list(requests))
    found: list[tuple[int, int]] = []
    try:
        session.run(_count(session.backend, model, asked, found, time.monotonic))
    except GeminiBatchError as error:
        log.info("The tokens of %d of %d rows were counted, then: %s", len(found), len(asked), error)
    return tuple(found) if len(found) >= min(LEAST_ROWS, len(asked)) else ()


def _spread(rows: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """
    Reorder rows so that those counted before a failure stand for all: neighbours in an input are often alike.

    Example: of eight, the order is 0, 4, 2, 6, 1, 5, 3, 7, which is that of their numbers' bits read from the right.
    """
    bits = max(1, (len(rows) - 1).bit_length())
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: f"{place:0{bits}b}"[::-1])]


def _count(
    backend: Backend,
    model: str,
    requests: Iterable[tuple[int, Any]],
    found: list[tuple[int, int]],
    now: Callable[[], float],
) -> Flow[None]:
    until = now() + WITHIN
    for size, request in requests:
        call = backend.count_tokens(model, request) if isinstance(request, dict) else None
        left = until - now()
        # What was counted by then counts: an estimate is wanted now, not a better one later.
        if call is None or left <= 0:
            return
        call = replace(call, timeout=min(left / REPLY_TIMEOUTS, CALL_WITHIN))
        found.append((size, (yield from exchange(call, backend.read_token_count, NO_RETRY))))
