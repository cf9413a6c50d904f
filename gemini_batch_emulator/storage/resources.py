# SPDX-License-Identifier: Apache-2.0
"""Buckets and objects as the JSON API shows them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gemini_batch_emulator.clock import timestamp

if TYPE_CHECKING:
    from gemini_batch_emulator.storage.store import Bucket, StoredObject


def object_resource(stored: StoredObject, base_url: str) -> dict[str, Any]:
    """The object as the JSON API shows it."""
    path = f"b/{stored.bucket}/o/{quote(stored.name, safe='')}"
    created = milliseconds(stored.created)
    resource: dict[str, Any] = {
        "kind": "storage#object",
        "id": f"{stored.bucket}/{stored.name}/{stored.generation}",
        "selfLink": f"{base_url}/storage/v1/{path}",
        "mediaLink": f"{base_url}/download/storage/v1/{path}?generation={stored.generation}&alt=media",
        "name": stored.name,
        "bucket": stored.bucket,
        # 64-bit numbers are strings in this API as well.
        "generation": str(stored.generation),
        "metageneration": "1",
        "contentType": stored.content_type,
        "storageClass": "STANDARD",
        "size": str(stored.size),
        "md5Hash": base64.b64encode(stored.md5).decode(),
        "etag": base64.b64encode(str(stored.generation).encode()).decode(),
        "timeCreated": created,
        "updated": created,
        "timeStorageClassUpdated": created,
        "timeFinalized": created,
    }
    if stored.content_encoding:
        resource["contentEncoding"] = stored.content_encoding
    if stored.metadata:
        resource["metadata"] = stored.metadata
    return resource


def bucket_resource(bucket: Bucket, base_url: str) -> dict[str, Any]:
    """The bucket as the JSON API shows it."""
    created = milliseconds(bucket.created)
    return {
        "kind": "storage#bucket",
        "id": bucket.name,
        "selfLink": f"{base_url}/storage/v1/b/{bucket.name}",
        "name": bucket.name,
        "location": bucket.location,
        "locationType": "multi-region" if bucket.location in ("US", "EU", "ASIA") else "region",
        "storageClass": "STANDARD",
        "metageneration": "1",
        "timeCreated": created,
        "updated": created,
    }


def milliseconds(epoch: float) -> str:
    """Write a time as the JSON API does."""
    return timestamp(epoch, digits=3)
