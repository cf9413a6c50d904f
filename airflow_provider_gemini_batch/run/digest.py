# SPDX-License-Identifier: Apache-2.0
"""What a request is: 32 hex digits over all that decides the answer, and over nothing else."""

# Counted: the kind of call, the model as asked for, the request in its backend-neutral form with defaults, schema,
# system instruction and settings merged in. Not counted: the row's key, labels, priority, display name, backend, tier.
# A request with an equal digest is never paid for twice, so `VERSION` changes only with a changelog entry: users pay
# again.

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.api.identity import canonical_model
from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import Kind

VERSION = 1

WIRE_KEY = re.compile(r"([0-9a-f]{1,16})\.([0-9a-f]{32})")

_encode = msgspec.json.Encoder(order="deterministic").encode


def encode_request(request: Mapping[str, Any]) -> bytes:
    """
    Return a request as JSON text with sorted members: equal requests give equal bytes.

    :raises ConfigurationError: For what JSON cannot hold: NaN, infinity, a lone surrogate, an object of some class.
    """
    try:
        _refuse_non_finite(request)
        return _encode(request)
    except (TypeError, ValueError, OverflowError, RecursionError) as fault:
        raise ConfigurationError(f"The request cannot be written as JSON: {fault}.") from None


def request_digest(kind: Kind, model: str, request: bytes | Mapping[str, Any]) -> str:
    """
    Digest a request.

    :param model: As asked for; counts in its canonical spelling, ``models/x`` as ``x``.
    :param request: In backend-neutral form, or what :func:`encode_request` made of it.
    :return: 32 hex digits.
    """
    body = request if isinstance(request, bytes) else encode_request(request)
    return RequestDigester(kind, model).digest(body)


class RequestDigester:
    """
    Digests many requests of one kind and model.

    The members ``kind``, ``model``, ``request``, ``v`` sort in this order, so that all but the request is a constant.
    """

    def __init__(self, kind: Kind, model: str) -> None:
        head = _encode({"kind": kind, "model": canonical_model(model)})
        # Hashed once for all rows: a copy of a hash object is far cheaper than hashing its head again.
        self._head = hashlib.sha256(head[:-1] + b',"request":')
        self._tail = b',"v":%d}' % VERSION

    def digest(self, body: bytes) -> str:
        """Digest what :func:`encode_request` returned."""
        found = self._head.copy()
        found.update(body)
        found.update(self._tail)
        return found.hexdigest()[:32]


def wire_key(n: int, digest: str) -> str:
    """Return the key of a row at Google; the user's own key stays in the house."""
    return f"{n:x}.{digest}"


def read_wire_key(key: str) -> tuple[int, str] | None:
    """Return row number and digest of a key that :func:`wire_key` made, or None."""
    found = WIRE_KEY.fullmatch(key)
    return (int(found[1], 16), found[2]) if found else None


def _refuse_non_finite(value: Any) -> None:
    # msgspec writes NaN as null, which would make two different requests one.
    if isinstance(value, float):
        if value - value != 0:
            raise ValueError(f"{value} is no number of JSON")
    elif isinstance(value, Mapping):
        for member in value.values():
            _refuse_non_finite(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            _refuse_non_finite(member)
