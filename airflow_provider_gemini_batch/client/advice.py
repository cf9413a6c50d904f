# SPDX-License-Identifier: Apache-2.0
"""
What a person should hear before a job is submitted: once for each kind of thing, with where it is and the way out.
"""

# An advice is an error only where a source documents that the service refuses every key; and on a host of one's own (an
# emulator, a proxy) it is never more than a warning.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_gemini_batch.cost.model_table import model_facts

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BackendName
    from airflow_provider_gemini_batch.rows.notes import RowReport

SOON = timedelta(days=60)
"""How long before its date a change of a model is told."""

_SAMPLING = ("temperature", "topP", "topK")
_NAMES: Mapping[BackendName, str] = {"gemini": "the Developer API", "vertex_ai": "Vertex AI"}
_BROKEN: Mapping[BackendName, Mapping[str, str]] = {
    "gemini": {
        "responseJsonSchema": "batch jobs of the Developer API are known to answer responseJsonSchema with broken JSON "
        "(crmne/ruby_llm#894). Use responseSchema."
    }
}
"""Per backend, members of generationConfig that its batch jobs are known to answer badly, and what is said of it."""


class Advice(NamedTuple):
    """
    One thing to say.

    :param is_refusal: Whether the job cannot be had, so that it is not worth a submission.
    """

    text: str
    is_refusal: bool = False


def model_advice(model: str, backend: BackendName, today: date, *, is_own_host: bool) -> Iterator[Advice]:
    """
    Yield what is known against a model.

    :param is_own_host: Whether the calls go to another host than Google's.
    """
    facts = model_facts(model)
    if facts is None:
        return
    instead = f" Ask for {facts.replacement} in its place." if facts.replacement else ""
    shut_down = facts.shut_down.get(backend)
    if shut_down is not None and today >= shut_down:
        text = f"{facts.name} was shut down on {shut_down}, and {_NAMES[backend]} refuses it.{instead}"
        yield Advice(text, is_refusal=not is_own_host)
        return
    retires = facts.retires.get(backend)
    if retires is not None and today + SOON >= retires:
        verb = "was to be retired" if today >= retires else "is to be retired"
        yield Advice(f"{facts.name} {verb} on {_NAMES[backend]} on {retires}; the date may be extended.{instead}")
    closed = facts.closed_to_new_keys.get(backend)
    if closed is not None and today >= closed:
        yield Advice(f"{facts.name} is refused (404) to API keys that had not used it before {closed:%B %Y}.")
    rerouted = facts.rerouted.get(backend)
    if rerouted is not None and today + SOON >= rerouted.when:
        yield Advice(
            f"{facts.name}: from {rerouted.when} on, {rerouted.to} answers in its place on {_NAMES[backend]}, at its "
            f"own price and with its own rules for parameters. Ask for the model that you want by its name."
        )


def settings_advice(model: str, report: RowReport) -> Iterator[Advice]:
    """Yield what the model ignores or refuses of what the rows ask for."""
    facts = model_facts(model)
    if report.both_thinking is not None:
        yield Advice(
            f"{_where(report.both_thinking, 'generationConfig.thinkingConfig')}: thinkingBudget and thinkingLevel "
            "exclude each other, and the service refuses a row with both. Keep one."
        )
    if facts is None:
        return
    ignored = [name for name in _SAMPLING if name in report.settings]
    if facts.ignores_sampling and ignored:
        line = min(report.settings[name] for name in ignored)
        yield Advice(
            f"{_where(line, 'generationConfig')}: {facts.name} ignores {_and(ignored)}; later models refuse requests "
            "with sampling parameters. Leave them out."
        )
    if facts.refuses_prefill and report.prefilled:
        count = "1 row ends" if report.prefilled == 1 else f"{report.prefilled} rows end"
        yield Advice(
            f"line {report.first_prefilled}: {count} with a turn of the role 'model' (prefill), which {facts.name} "
            "refuses with HTTP 400. End with a turn of the user's."
        )
    for name, other, means in (
        ("thinkingBudget", "level", "thinkingLevel"),
        ("thinkingLevel", "budget", "thinkingBudget"),
    ):
        if facts.thinks_by == other and name in report.settings:
            where = _where(report.settings[name], "generationConfig.thinkingConfig")
            yield Advice(f"{where}: {facts.name} does not know {name}; set {means}.")
    for level, line in report.levels.items() if facts.levels else ():
        if level not in facts.levels:
            where = _where(line, "generationConfig.thinkingConfig.thinkingLevel")
            yield Advice(f"{where}: {facts.name} does not know {level!r}; its levels are {_and(list(facts.levels))}.")


def row_advice(report: RowReport, backend: BackendName) -> Iterator[Advice]:
    """Yield what is worth a word about rows that are sent, whatever the model."""
    for (path, meant), line in report.unknown.items():
        place, _, name = path.rpartition(".")
        guess = f"; {meant} may be meant" if meant else ""
        yield Advice(f"{_where(line, place)}: {name!r} is not known here and is sent as it is{guess}.")
    for name, text in _BROKEN.get(backend, {}).items():
        if name in report.settings:
            yield Advice(f"{_where(report.settings[name], 'generationConfig')}: {text}")


def own_members_note(report: RowReport) -> str:
    """Return what to say of members of the caller's beside the request, or an empty string."""
    if not report.unsent:
        return ""
    return (
        f"{_and(list(report.unsent))}: not sent, as the service does not give such members back in files; "
        "DownloadResultsOperator puts them beside the answers when it is given input_path."
    )


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _where(line: int, place: str) -> str:
    """Name a place in the settings of all rows (line 0), or in a row."""
    if line:
        return f"line {line}, {place}" if place else f"line {line}"
    first, dot, rest = place.partition(".")
    return {"generationConfig": "generation_config"}.get(first, first) + dot + rest
