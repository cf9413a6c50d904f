# SPDX-License-Identifier: Apache-2.0
"""All knobs in one flat namespace; each service's own have a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gemini_batch_emulator.errors import ControlError
from gemini_batch_emulator.knobs.bigquery import BigQueryKnobs
from gemini_batch_emulator.knobs.developer import DeveloperKnobs
from gemini_batch_emulator.knobs.storage import StorageKnobs
from gemini_batch_emulator.knobs.token import TokenKnobs
from gemini_batch_emulator.knobs.vertex import VertexKnobs
from gemini_batch_emulator.scripts import JobScript


@dataclass
class CommonKnobs:
    """
    What concerns both backends.

    :param speed: Emulated seconds a real second.
    :param script: Members of :class:`~.scripts.JobScript` for jobs without a script of their own.
    :param models: Models that exist; None is every name that looks like a Gemini or embedding model.
    :param retired_models: Models that only the keys of *old_keys* may use; None is those of :mod:`.models`.
    :param reroutes: ``{"model": {"to": "model", "since": "2026-12-01"}}``: from that emulated day on another model
        answers, and says so in ``modelVersion``; None is those of :mod:`.models`.
    :param cancel_settle_seconds: Emulated seconds until a cancelled running job has ended.
    :param list_default_page_size: Page size when none is asked for.
    :param list_max_page_size: Larger pages are cut to this.
    :param listing_lag: Jobs younger than this many emulated seconds are not listed. A list of numbers gives each list
        request the next of them, over and over.
    :param not_found_polls: The first so many reads of a job answer 404.
    :param fields: ``honour``, ``ignore`` or ``reject`` the ``fields`` parameter.
    :param pretty: Indent replies, as the service does unless told otherwise.
    """

    speed: float = 1.0
    script: dict[str, Any] = field(default_factory=dict)
    models: list[str] | None = None
    retired_models: list[str] | None = None
    reroutes: dict[str, dict[str, str]] | None = None
    cancel_settle_seconds: float = 1.0
    list_default_page_size: int = 50
    list_max_page_size: int = 100
    listing_lag: float | list[float] = 0.0
    not_found_polls: int = 0
    fields: str = "honour"
    pretty: bool = False


@dataclass
class Config(TokenKnobs, BigQueryKnobs, StorageKnobs, VertexKnobs, DeveloperKnobs, CommonKnobs):
    """Every knob of every service; see the classes it is made of."""

    def changed(self, values: Mapping[str, Any]) -> Config:
        """
        Return a copy with *values* set.

        :param values: Knobs by name; ``script`` is merged member by member, and ``extra`` may hold more knobs.
        :raises ControlError: For a knob that does not exist, and for a script that makes no sense.
        """
        given = {**values, **(values.get("extra") or {})}
        given.pop("extra", None)
        known = {knob.name for knob in fields(Config)}
        # A knob with a typing error would leave everything as it is, and a test would pass for nothing.
        unknown = sorted(set(given) - known)
        if unknown:
            raise ControlError(f"No such knob: {', '.join(unknown)}; there is {', '.join(sorted(known))}.")
        script = {**self.script, **(given.get("script") or {})}
        # For its errors: the job that would meet them may be made much later.
        JobScript().changed(script)
        return replace(self, **{**given, "script": script})
