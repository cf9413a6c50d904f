# SPDX-License-Identifier: Apache-2.0
"""Google's discovery documents, as google-api-python-client ships them, held against replies."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import googleapiclient


@functools.cache
def schemas_of(document: str) -> dict[str, Any]:
    """The schemas of a document, e.g. ``storage.v1``."""
    documents = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return dict(json.loads((documents / f"{document}.json").read_text())["schemas"])


def schema_problems(value: Any, name: str, schemas: dict[str, Any], where: str = "") -> list[str]:
    """Members of *value* that Google's discovery document does not know, or has with another JSON type."""
    found = []
    properties = schemas[name].get("properties", {})
    for member, entry in value.items():
        at = f"{where}.{member}"
        if member not in properties:
            found.append(f"{at}: unknown")
            continue
        declared = properties[member]
        entries = entry if declared.get("type") == "array" else [entry]
        item = declared.get("items", declared) if declared.get("type") == "array" else declared
        for one in entries:
            if "$ref" in item:
                found += schema_problems(one, item["$ref"], schemas, at)
            elif item.get("type") == "string" and not isinstance(one, str):
                found.append(f"{at}: {one!r} is no string")
            elif item.get("type") == "integer" and not isinstance(one, int):
                found.append(f"{at}: {one!r} is no integer")
    return found
