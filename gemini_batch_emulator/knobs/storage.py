# SPDX-License-Identifier: Apache-2.0
"""Knobs of Cloud Storage."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class StorageKnobs:
    """
    Who may do what, and how much of an upload is kept.

    :param forbidden_buckets: Buckets that the caller may not touch (403).
    :param storage_denied: ``{"bucket": ["storage.objects.create", ...]}``: permissions the caller lacks (403).
    :param create_missing_buckets: Whether a bucket comes to be when it is first written to.
    :param storage_keep_bytes: Of the next data requests of resumable uploads only so many bytes are kept, and 308 is
        answered; first in, first out.
    """

    forbidden_buckets: list[str] = field(default_factory=list)
    storage_denied: dict[str, list[str]] = field(default_factory=dict)
    create_missing_buckets: bool = False
    storage_keep_bytes: list[int] = field(default_factory=list)
