# SPDX-License-Identifier: Apache-2.0
"""States of a job, as words without the backend's prefix, and what may follow what."""

# Both backends have the same words but for the prefix (`BATCH_STATE_` on the Developer API, `JOB_STATE_` on Vertex AI);
# the Developer API shows six of them. A script may show any other word, too: of such a word nothing is known.
#
# Sources: https://ai.google.dev/api/batch-api (BatchState);
# https://aiplatform.googleapis.com/$discovery/rest?version=v1 (JobState).

from __future__ import annotations

PREFIXES = ("BATCH_STATE_", "JOB_STATE_")

WITH_RESULTS = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED"})
"""Ends that leave answers for all or some rows."""

FINAL = WITH_RESULTS | {"FAILED", "CANCELLED", "EXPIRED"}
"""Ends; a job in one of them never changes again."""

FOLLOWING: dict[str, frozenset[str]] = {
    "QUEUED": frozenset({"PENDING", "RUNNING", "CANCELLING", "CANCELLED", "FAILED", "EXPIRED"}),
    "PENDING": frozenset({"RUNNING", "CANCELLING", "CANCELLED", "FAILED", "EXPIRED"}),
    "RUNNING": FINAL | {"CANCELLING", "PAUSED", "UPDATING"},
    "PAUSED": frozenset({"QUEUED", "RUNNING", "CANCELLING", "CANCELLED"}),
    "UPDATING": frozenset({"RUNNING", "FAILED"}),
    "CANCELLING": frozenset({"CANCELLED", "SUCCEEDED", "FAILED"}),
    **{word: frozenset() for word in FINAL},
}
"""What the service was seen, or is documented, to let follow a state."""

HTTP_OF_GRPC = {1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501}
"""Status of a reply for a gRPC number, where it is not 500."""


def bare(word: str) -> str:
    """Return a state's word without a prefix: ``SUCCEEDED`` for ``JOB_STATE_SUCCEEDED``."""
    for prefix in PREFIXES:
        word = word.removeprefix(prefix)
    return word


def prefixed(word: str, prefix: str) -> str:
    """Return the word as a backend shows it; a scripted word that has a prefix keeps its own."""
    return word if word.startswith(PREFIXES) else prefix + word


def has_results(word: str) -> bool:
    """Whether a job that ends so leaves answers."""
    return bare(word) in WITH_RESULTS


def may_follow(before: str, after: str) -> bool:
    """Whether the service takes this step; a word that is no state of its may precede and follow anything."""
    before, after = bare(before), bare(after)
    return before == after or before not in FOLLOWING or after not in FOLLOWING or after in FOLLOWING[before]
