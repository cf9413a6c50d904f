# SPDX-License-Identifier: Apache-2.0
"""Knobs of Vertex AI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MODEL_LOCATIONS: dict[str, list[str]] = {
    "gemini-embedding-001": ["us-central1", "us-east4", "us-west1", "us-west4", "europe-west1", "europe-west4"],
    "gemini-embedding-2": ["global", "us", "eu"],
}
"""Where a model is served, as documented in September 2026; other models everywhere."""


@dataclass
class VertexKnobs:
    """
    What Vertex AI does where it is not documented, or was seen to do otherwise.

    :param vertex_queue_seconds: Jobs that did not start by then expire.
    :param vertex_shuffle: Rows are written in another order than they came.
    :param shards: Number of output objects of a job.
    :param vertex_shard_pattern: Names of several output objects.
    :param coerce_numeric_keys: The importer turns keys that look like numbers into numbers.
    :param vertex_empty_containers: Arrays and structs beside ``request`` come back empty.
    :param vertex_null_names: Names under which null fails the import.
    :param vertex_max_rows: Most rows of a job; unless given 200,000, Gemini embeddings 1,000,000, older ones 30,000.
    :param vertex_max_input_bytes: Largest input.
    :param vertex_queued_reads: Reads of a waiting job that show QUEUED before PENDING.
    :param vertex_running_stats: ``completionStats`` while RUNNING, too.
    :param vertex_failed_response: ``absent`` (as captured) or ``empty`` (as documented) for failed rows.
    :param vertex_partial_failures: Status objects in ``partialFailures``; a PARTIALLY_SUCCEEDED job has some anyway.
    :param projects: Projects that exist; None is all.
    :param project_numbers: ``{"project-id": "123"}``: names are answered with the number, and both are understood.
    :param locations: Locations that exist; None is all.
    :param model_locations: ``{"model": ["location", ...]}``: where a model is served.
    :param tuned_models: Full names of the tuned models that exist; None is all.
    :param vertex_retired_models: Models that answer 404. Google says that the 2.5 family retired on 16 October 2026
        and that this may be put off, hence none unless given.
    :param unreadable_buckets: Buckets that the service agent cannot read (job fails with code 9).
    :param unwritable_buckets: Buckets that the service agent cannot write to (job fails with code 7).
    :param several_uris: ``accept`` or ``reject`` several input URIs.
    """

    vertex_queue_seconds: float = 72 * 3600.0
    vertex_shuffle: bool = True
    shards: int = 1
    vertex_shard_pattern: str = "predictions_{:05d}.jsonl"
    coerce_numeric_keys: bool = False
    vertex_empty_containers: bool = True
    vertex_null_names: list[str] = field(default_factory=lambda: ["enum"])
    vertex_max_rows: int | None = None
    vertex_max_input_bytes: int = 1 << 30
    vertex_queued_reads: int = 0
    vertex_running_stats: bool = False
    vertex_failed_response: str = "absent"
    vertex_partial_failures: list[dict[str, Any]] | None = None
    projects: list[str] | None = None
    project_numbers: dict[str, str] = field(default_factory=dict)
    locations: list[str] | None = None
    model_locations: dict[str, list[str]] = field(default_factory=lambda: dict(MODEL_LOCATIONS))
    tuned_models: list[str] | None = None
    vertex_retired_models: list[str] = field(default_factory=list)
    unreadable_buckets: list[str] = field(default_factory=list)
    unwritable_buckets: list[str] = field(default_factory=list)
    several_uris: str = "accept"
