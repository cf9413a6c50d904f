# SPDX-License-Identifier: Apache-2.0
"""What is worth a word about rows that can be sent: noted once for each kind of thing, with the line it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.rows.casing import Unknown, guess, unknown_members

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.rows.problems import RowFault

MAX_UNKNOWN = 20
"""Unknown members that are told; a schema from another world may hold hundreds."""

_REQUESTS = ("GenerateContentRequest", "EmbedContentRequest")
_LOOKED_INTO = {
    "contents": "Content",
    "content": "Content",
    "systemInstruction": "Content",
    "generationConfig": "GenerationConfig",
    "tools": "Tool",
    "toolConfig": "ToolConfig",
    "safetySettings": "SafetySetting",
    "embedContentConfig": "EmbedContentConfig",
}


def _whole(value: Any) -> int | None:
    """Return a whole number, which JSON of protocol buffers may write as a text; None for anything else."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if type(value) is int else None


@dataclass
class RowReport:
    """
    What was found in the rows of one job. Lines are counted from 1; 0 stands for the settings of all rows.

    :param sent: Rows that go into the job.
    :param refused: Rows that cannot be sent.
    :param faults: The first of them.
    :param settings: Members of ``generationConfig`` and ``thinkingConfig``, each with the first line that has it.
    :param levels: Values of ``thinkingLevel`` in lower case, each with the first line that has it.
    :param both_thinking: First line with ``thinkingBudget`` and ``thinkingLevel``, or None.
    :param prefilled: Rows whose last turn is the model's.
    :param first_prefilled: The line of the first of them.
    :param unknown: Members that nobody knows, each with the first line that has it.
    :param own: Members of the caller's, each with the first line that has it.
    :param unsent: Those of them that the backend does not give back.
    :param max_output_tokens: The most that a row which sets ``maxOutputTokens`` may write, in all its candidates; 0 for
        no such row.
    :param has_unlimited: Whether there is a row that does not.
    """

    sent: int = 0
    refused: int = 0
    faults: list[RowFault] = field(default_factory=list)
    settings: dict[str, int] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    modalities: set[str] = field(default_factory=set)
    max_output_tokens: int = 0
    has_unlimited: bool = False
    both_thinking: int | None = None
    prefilled: int = 0
    first_prefilled: int = 0
    unknown: dict[Unknown, int] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)
    unsent: dict[str, int] = field(default_factory=dict)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    @property
    def longest_answer(self) -> int | None:
        """Output tokens that no answer may pass, or None if a row sets no limit."""
        return None if self.has_unlimited else self.max_output_tokens or None

    def note_config(self, config: Mapping[str, Any], line: int) -> None:
        """Note generation settings, spelt as the service does."""
        for name in config:
            if name not in self.settings:
                self.settings[name] = line
        thinking = config.get("thinkingConfig")
        if isinstance(thinking, Mapping):
            for name in thinking:
                self.settings.setdefault(name, line)
            if isinstance(level := thinking.get("thinkingLevel"), str):
                self.levels.setdefault(level.lower(), line)
            if "thinkingBudget" in thinking and "thinkingLevel" in thinking and self.both_thinking is None:
                self.both_thinking = line
        modalities = config.get("responseModalities")
        modalities = [modalities] if isinstance(modalities, str) else modalities
        for name, modality in (("imageConfig", "IMAGE"), ("speechConfig", "AUDIO")):
            if config.get(name) is not None:
                self.modalities.add(modality)
        if isinstance(modalities, (list, tuple)):
            self.modalities.update(entry.upper() for entry in modalities if isinstance(entry, str))
        tokens = _whole(config.get("maxOutputTokens"))
        if tokens is not None:
            # Each candidate may use the limit up, and each is billed.
            times = max(1, _whole(config.get("candidateCount")) or 1)
            self.max_output_tokens = max(self.max_output_tokens, tokens * times)

    def note_turns(self, contents: Any, line: int) -> None:
        """Note a row that ends with a turn of the model's."""
        if contents and isinstance(contents, list) and contents[-1].get("role") == "model":
            self.note_prefilled(1, line)

    def note_prefilled(self, count: int, line: int) -> None:
        """Note rows that end with a turn of the model's, the first of them in *line*."""
        if not self.prefilled:
            self.first_prefilled = line
        self.prefilled += count

    def note_unknown(self, found: set[tuple[str, str]], request: Mapping[str, Any], line: int) -> None:
        """
        Note members that are not known at their place.

        :param found: Message and name of each, as :func:`~.casing.to_wire` tells them; looked for only if one is new.
        """
        # Nearly every row repeats what an earlier one had; only news is worth the search for its place.
        if found <= self._seen:
            return
        self._seen |= found
        for message, member in sorted(found):
            if message in _REQUESTS and len(self.unknown) < MAX_UNKNOWN:
                self.unknown.setdefault(Unknown(member, guess(member, message)), line)
        for name, message in _LOOKED_INTO.items():
            for unknown in unknown_members(request.get(name), message, name):
                if len(self.unknown) < MAX_UNKNOWN:
                    self.unknown.setdefault(unknown, line)

    def note_own(self, own: Iterable[str], sent: Iterable[str], line: int) -> None:
        """Note members of the caller's, and which of them the backend is sent."""
        for name in own:
            if name not in self.own:
                self.own[name] = line
            if name not in self.unsent and name not in sent:
                self.unsent[name] = line
