# SPDX-License-Identifier: Apache-2.0
"""
Which models there are in November 2026, which answer only to keys that used them before, and who answers for whom.
"""

# Sources: https://ai.google.dev/gemini-api/docs/models, https://ai.google.dev/gemini-api/docs/changelog. That new keys
# are refused 2.5 Flash and Pro, and from which day others answer for them, was reported, not documented: knobs of
# `CommonKnobs` say otherwise.

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gemini_batch_emulator.knobs import Config

CURRENT = (
    "gemini-4-argon",
    "gemini-3.8-flash",
    "gemini-3.7-flash",
    "gemini-3.6-flash",
    "gemini-3.5-flash",
    "gemini-3.5-flash-lite",
    "gemini-3.1-pro-preview",
    "gemini-3.1-flash-lite",
    "gemini-2.5-flash-lite",
    "gemini-embedding-001",
    "gemini-embedding-2",
)
"""What a list of models shows unless the knob ``models`` says otherwise."""

DEFAULT = "gemini-3.5-flash-lite"
RETIRED = ("gemini-2.5-flash", "gemini-2.5-pro")
REROUTES = {
    "gemini-2.5-pro": {"to": "gemini-3.8-flash", "since": "2026-12-01"},
    "gemini-2.5-flash": {"to": "gemini-3.5-flash-lite", "since": "2026-12-01"},
}

_LIKELY = re.compile(
    r"(gemini-(\d+(\.\d+)?-[a-z0-9.-]+|embedding-[a-z0-9-]+|exp-\d+|robotics-[a-z0-9.-]+)|gemma-\d[a-z0-9.-]*"
    r"|text-embedding-\d{3}|embedding-\d{3})"
)
_LATEST = re.compile(r"gemini-(pro|flash|flash-lite)-latest")


def short_name(model: str) -> str:
    """Return a model's name without a path before and a version behind it."""
    return model.rpartition("/")[2].partition("@")[0]


def is_embedding(model: str) -> bool:
    """Whether a model makes vectors."""
    return "embedding" in short_name(model)


def exists(config: Config, model: str) -> bool:
    """Whether the knob ``models`` lists a model, or else its name looks like one of Google's."""
    short = short_name(model)
    if config.models is not None:
        return short in config.models or model in config.models
    # By its look: models come and go faster than this list.
    return _LIKELY.fullmatch(short) is not None


def is_alias(model: str) -> bool:
    """Whether a name stands for the newest model of a kind; only ``v1beta`` knows such names."""
    return _LATEST.fullmatch(short_name(model)) is not None


def is_retired_for(config: Config, model: str, key: str) -> bool:
    """Whether a key may no longer use a model, since it had not used it before."""
    retired = RETIRED if config.retired_models is None else config.retired_models
    return short_name(model) in retired and config.old_keys is not None and key not in config.old_keys


def answering_for(config: Config, model: str, now: float) -> str:
    """Return the short name of the model that answers for *model* at an emulated time."""
    reroutes = REROUTES if config.reroutes is None else config.reroutes
    short = short_name(model)
    reroute = reroutes.get(short)
    if reroute is None:
        return short
    since = reroute.get("since")
    moment = datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp() if since else 0.0
    return reroute["to"] if now >= moment else short
