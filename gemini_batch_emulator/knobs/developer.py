# SPDX-License-Identifier: Apache-2.0
"""Knobs of the Developer API."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DeveloperKnobs:
    """
    What the Developer API does where it is not documented, or was seen to do otherwise.

    :param accepted_keys: API keys that are accepted; None is every key that does not start with ``bad``.
    :param old_keys: Keys that had used a retired model before it retired, and may use it on; None is every key.
    :param max_active_jobs: More jobs that have not ended are refused with 429.
    :param enqueued_tokens: Most input tokens of all active jobs of one model; None is no limit.
    :param spend_limit: Most US dollars of ten emulated minutes; above it creating answers 429. None is no limit.
    :param spend_per_million_tokens: What a million input tokens is taken to cost for *spend_limit*.
    :param cancel_outcome: ``succeeded_with_errors``, as the service was seen to do, or ``cancelled_partial``.
    :param cancel_ended: ``ignore`` or ``reject`` (400) for cancelling an ended job.
    :param developer_expire_seconds: Jobs expire after so long.
    :param file_lifetime_seconds: Uploaded files vanish after so long.
    :param upload_granularity: What the upload's start asks chunks to be a multiple of; 0 leaves the header out.
    :param file_processing_polls: An uploaded file is PROCESSING for so many reads.
    :param file_state: ``ACTIVE``, or ``FAILED`` for files that end so.
    :param upload_final_without_file: The upload's last answer is 200 without ``file``.
    :param reject_mime_types: MIME types answered with an error in the upload's last answer.
    :param bare_rows: Accept input lines without the ``request`` wrapper.
    :param degrade_json_schema: Answers of batches to ``responseJsonSchema`` do not fit it, as was reported once;
        ``responseSchema`` is not concerned.
    :param list_filter: ``reject`` (501), ``ignore``, for a filter on the job list.
    :param list_empty_without_page_size: A list call without page size is empty, as was reported once.
    :param stale_list_stats: Job lists show the counters of the time of creation.
    :param inline_read_limit: A read of an inline job whose reply has more bytes answers 503; None reads them all.
    :param download_ranges: Whether a download honours ``Range``.
    :param free_tier: The key has no billing: creating answers 400 FAILED_PRECONDITION.
    :param max_file_bytes: Largest upload.
    :param flex_shed: Of the next ``generateContent`` calls with ``serviceTier: flex`` each takes one status off this
        list and is answered with it, unless it is 200.
    :param flex_seconds: Real seconds such a call takes.
    """

    accepted_keys: list[str] | None = None
    old_keys: list[str] | None = field(default_factory=list)
    max_active_jobs: int = 100
    enqueued_tokens: int | None = None
    spend_limit: float | None = None
    spend_per_million_tokens: float = 0.15
    cancel_outcome: str = "succeeded_with_errors"
    cancel_ended: str = "ignore"
    developer_expire_seconds: float = 48 * 3600.0
    file_lifetime_seconds: float = 48 * 3600.0
    upload_granularity: int = 8 << 20
    file_processing_polls: int = 0
    file_state: str = "ACTIVE"
    upload_final_without_file: bool = False
    reject_mime_types: list[str] = field(default_factory=list)
    bare_rows: bool = False
    degrade_json_schema: bool = False
    list_filter: str = "reject"
    list_empty_without_page_size: bool = False
    stale_list_stats: bool = False
    inline_read_limit: int | None = None
    download_ranges: bool = False
    free_tier: bool = False
    max_file_bytes: int = 2 << 30
    flex_shed: list[int] = field(default_factory=list)
    flex_seconds: float = 0.0
