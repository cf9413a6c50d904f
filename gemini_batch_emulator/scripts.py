# SPDX-License-Identifier: Apache-2.0
"""How jobs and single rows behave: the scripts that tests and control routes give. ``docs/emulator.md`` shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.answering.draws import Draw, Lengths, number_of
from gemini_batch_emulator.answering.generation import USUAL, Manner
from gemini_batch_emulator.errors import ControlError, build

if TYPE_CHECKING:
    from gemini_batch_emulator.rows import InputRow

OUTCOMES = (
    "succeed",
    "error",
    "blocked_prompt",
    "blocked_output",
    "no_candidates",
    "max_tokens",
    "invalid",
    "missing",
    "null",
    "duplicate",
    "thoughts",
    "text",
)
MATCH_FIELDS = ("name", "display_name", "model", "backend", "kind")
PROXY_PAGE = b"<!DOCTYPE html><html><title>502 Bad Gateway</title><p>The proxy could not reach it.</p></html>"
"""What a spoilt result may hold."""

SPOILT = ("empty", "proxy_page", "unlisted")


@dataclass
class RowRule:
    """
    What becomes of the rows that match. A rule without any condition matches every row.

    :param outcome: What becomes of them, see the list of outcomes.
    :param key: The row's key, or a list of keys; a key with a prefix that ends with a colon matches, too.
    :param index: The row's place in its job, from 0, or a list of places.
    :param pattern: Regular expression found in the row's text.
    :param share: So much of the rows (0 to 1), drawn by *draw*.
    :param draw: ``row`` draws by key and place, ``request`` by what is asked: the same in every job.
    :param first: Only the first so many times that the same request is asked, over all jobs: 1 fails once.
    :param requests: At most so many different requests, in the order in which they are met.
    :param code: gRPC number of an ``error``.
    :param message: Its message; None leaves it out.
    :param reason: Block or finish reason of ``blocked_prompt`` and ``blocked_output``.
    :param text: What is said, for ``text``.
    :param how: How ``invalid`` breaks the schema: ``type``, ``missing`` (a required member) or ``extra``.
    :param output_tokens: Length of the answer: a number or :class:`~.answering.draws.Lengths`.
    :param thoughts_tokens: Length of the thinking, likewise.
    :param cached_tokens: Tokens of the prompt that came from a cache.
    :param model_version: The model that says to have answered.
    :param matched: How many rows it decided.
    """

    outcome: str = "succeed"
    key: str | list[str] | None = None
    index: int | list[int] | None = None
    pattern: str | None = None
    share: float | None = None
    draw: str = "row"
    first: int | None = None
    requests: int | None = None
    code: int = 3
    message: str | None = "The emulator was told to fail this row."
    reason: str = "SAFETY"
    text: str | None = None
    how: str = "type"
    output_tokens: Any = None
    thoughts_tokens: Any = None
    cached_tokens: int | None = None
    model_version: str | None = None
    matched: int = 0

    def __post_init__(self) -> None:
        for name, known in (("outcome", OUTCOMES), ("draw", ("row", "request")), ("how", ("type", "missing", "extra"))):
            if getattr(self, name) not in known:
                raise ControlError(f"No such row {name}: {getattr(self, name)!r}; there is {', '.join(known)}.")
        self._regex = re.compile(self.pattern) if self.pattern is not None else None
        # Prepared once: a rule may be asked about ten million rows.
        self._keys = frozenset([self.key] if isinstance(self.key, str) else self.key or ())
        self._indices = frozenset([self.index] if isinstance(self.index, int) else self.index or ())
        self._lengths = (Lengths.of(self.output_tokens), Lengths.of(self.thoughts_tokens))

    @property
    def identity(self) -> str:
        """Tells rules apart that count; equal rules of several jobs are one."""
        return repr(sorted((name, str(value)) for name, value in asdict(self).items() if name != "matched"))

    def matches(self, row: InputRow, seed: int) -> bool:
        """
        Whether the rule speaks of *row*; *first* and *requests* are looked at elsewhere.

        :param seed: Of the job's script and the rule's place in it.
        """
        if self.key is not None and not (row.key in self._keys or _behind_prefix(row.key) in self._keys):
            return False
        if self.index is not None and row.index not in self._indices:
            return False
        if self._regex is not None and not self._regex.search(row.text):
            return False
        if self.share is None:
            return True
        # By what is asked, so that a row which fails in one job fails in every job that asks the same; by place and
        # key, so that two rows with the same prompt can differ.
        number = row.content if self.draw == "request" else number_of(f"{row.index}|{row.key}")
        # A hash in place of a generator: what becomes of a row does not depend on which rows were drawn before it, so
        # that order, retries and threads change nothing.
        return Draw(number ^ (seed * 0x9E3779B97F4A7C15)).share() < self.share

    def manner(self, usual: Manner) -> Manner:
        """Return how to answer such a row; what the rule does not say is as usual."""
        output, thoughts = self._lengths
        return Manner(
            outcome=self.outcome,
            reason=self.reason,
            text=self.text,
            how=self.how,
            output_tokens=output or usual.output_tokens,
            thoughts_tokens=thoughts or usual.thoughts_tokens,
            cached_tokens=usual.cached_tokens if self.cached_tokens is None else self.cached_tokens,
            model_version=self.model_version or usual.model_version,
            seed=usual.seed,
        )


def _behind_prefix(key: str | None) -> str | None:
    """
    Return what stands behind the first colon of a row's key, None without one.

    The importer of Vertex AI turns keys that look like numbers into numbers, so clients put a prefix before theirs; a
    script names a row as the client's user does.
    """
    return key.partition(":")[2] if key is not None and ":" in key else None


@dataclass
class Ending:
    """
    How a job ends.

    :param state: Without a prefix, e.g. ``SUCCEEDED``.
    :param code: gRPC number of the job's error; 0 is none.
    :param message: Its message.
    :param share: Share of the rows that ran (and are billed); None is all of them for an end with results, else 0.
    """

    state: str = "SUCCEEDED"
    code: int = 0
    message: str = ""
    share: float | None = None


@dataclass
class JobScript:
    """
    How a job behaves.

    :param mode: ``time`` (emulated seconds), ``reads`` (reads that still show a state) or ``at_once``.
    :param pending_seconds: Emulated seconds until it starts.
    :param running_seconds: Emulated seconds until it ends from there.
    :param pending_reads: Reads that show PENDING.
    :param running_reads: Reads that show RUNNING.
    :param stuck: ``PENDING`` or ``RUNNING``: never leaves it, but expires and can be cancelled.
    :param hold: ``{"state": "PAUSED", "seconds": 5}``: after running, before the end; without seconds for ever. Any
        word is a state, also one nobody knows.
    :param end: Members of :class:`Ending`.
    :param expire_seconds: Emulated seconds after which it expires; None is as the backend's knob says.
    :param not_found_polls: The first so many reads answer 404; None is as the knob says.
    :param shuffle: Whether results come in another order; None is as the backend does.
    :param extra_keys: Results for keys that nobody sent.
    :param truncate_last_line: The last result line breaks off in its middle.
    :param results_share: Only so much of the result lines is there (0 to 1), cut at a line's end; the job's counters
        say all.
    :param spoilt: ``{"0": "empty"}``: result objects by number that are ``empty``, a ``proxy_page`` (HTML) or
        ``unlisted`` until *results_after*.
    :param output_after: Emulated seconds after the end until the job shows its output.
    :param results_after: Emulated seconds after the end until a result file can be read; 404 until then.
    :param responses_inline: A file job answers inline.
    :param output_tokens: Length of all answers: a number or :class:`~.answering.draws.Lengths`.
    :param thoughts_tokens: Length of all thinking, likewise.
    :param cached_tokens: Tokens of each prompt that came from a cache.
    :param model_version: The model that says to have answered.
    :param seed: Of the order of results, of shares and of lengths.
    :param rows: Row rules; the first that matches a row decides.
    :param result_file: The result is this file.
    :param result_bytes: The result is lines of *result_line_bytes* each until it has so many bytes.
    :param result_line_bytes: See *result_bytes*.
    """

    mode: str = "time"
    pending_seconds: float = 1.0
    running_seconds: float = 2.0
    pending_reads: int = 1
    running_reads: int = 1
    stuck: str | None = None
    hold: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    expire_seconds: float | None = None
    not_found_polls: int | None = None
    shuffle: bool | None = None
    extra_keys: list[str] = field(default_factory=list)
    truncate_last_line: bool = False
    results_share: float = 1.0
    spoilt: dict[str, str] = field(default_factory=dict)
    output_after: float = 0.0
    results_after: float = 0.0
    responses_inline: bool = False
    output_tokens: Any = None
    thoughts_tokens: Any = None
    cached_tokens: int | None = None
    model_version: str | None = None
    seed: int = 0
    rows: list[Any] = field(default_factory=list)
    result_file: str | None = None
    result_bytes: int | None = None
    result_line_bytes: int = 2000

    def __post_init__(self) -> None:
        if self.mode not in ("time", "reads", "at_once"):
            raise ControlError(f"No such mode: {self.mode!r}; there is time, reads, at_once.")
        if self.stuck not in (None, "PENDING", "RUNNING"):
            raise ControlError(f"A job can be stuck in PENDING or RUNNING, not in {self.stuck!r}.")
        unknown = sorted(set(self.spoilt.values()) - set(SPOILT))
        if unknown:
            raise ControlError(f"A result can be {', '.join(SPOILT)}, not {', '.join(unknown)}.")
        # Checked now: a rule that is misspelt is an error of the test that sets it, not of the job that runs much
        # later.
        self.rows = [rule if isinstance(rule, RowRule) else build(RowRule, rule) for rule in self.rows]
        self._lengths = (Lengths.of(self.output_tokens), Lengths.of(self.thoughts_tokens))
        if self.end is not None:
            build(Ending, self.end)

    def changed(self, values: Mapping[str, Any]) -> JobScript:
        """Return a copy with *values* set."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return build(JobScript, {**known, **values})

    def manner(self) -> Manner:
        """Return how the job's rows are answered where no rule says otherwise."""
        output, thoughts = self._lengths
        if not (output or thoughts or self.cached_tokens is not None or self.model_version):
            return USUAL
        return Manner(
            output_tokens=output,
            thoughts_tokens=thoughts,
            cached_tokens=self.cached_tokens,
            model_version=self.model_version or "",
            seed=self.seed,
        )


@dataclass
class PendingScript:
    """A script that waits for the jobs it is meant for."""

    script: dict[str, Any]
    match: dict[str, str] = field(default_factory=dict)
    times: int | None = 1


def job_matches(match: Mapping[str, str], facts: Mapping[str, str]) -> bool:
    """Whether a job with *facts* is one that *match* speaks of."""
    unknown = sorted(set(match) - set(MATCH_FIELDS))
    if unknown:
        raise ControlError(f"A job is matched by {', '.join(MATCH_FIELDS)}, not by {', '.join(unknown)}.")
    for name, wanted in match.items():
        # Patterns for what people choose; what the emulator makes, and the words of the API, are matched whole.
        exact = name in ("name", "backend", "kind")
        if (facts[name] != wanted) if exact else (re.search(wanted, facts[name]) is None):
            return False
    return True
