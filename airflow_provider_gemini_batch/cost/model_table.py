# SPDX-License-Identifier: Apache-2.0
"""
What is known of each model, with dates and sources: since when it is there, until when, and what it ignores or refuses.
"""

# A model that is not in the table is unknown, and nothing is said of it: neither that it exists, nor that it does not.
#
# Sources, read up to November 2026:
#
# * [D] https://ai.google.dev/gemini-api/docs/deprecations. Its shutdown dates are the earliest possible ones until a
#   model is marked as shut down; then "the endpoint is no longer available".
# * [V] https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/model-versions ("may be extended")
# * [C] https://ai.google.dev/gemini-api/docs/changelog
# * [T] https://ai.google.dev/gemini-api/docs/thinking
# * [R] https://dev.to/aideprecations (a copy of [D] as of 10 November 2026): requests for 2.5 Pro and 2.5 Flash are
#   answered by other models from 1 December 2026 on, at those models' prices. Whether a batch create is rerouted or
#   refused is not documented.
# * [N] Reports of 404 "no longer available to new users" since July 2026: kestra-io/docs#5168,
#   solanabr/superteam-academy#473, sohzm/cheating-daddy#476
# * [P] Reports of HTTP 400 for sampling parameters and for prefill: Zoo-Code#1052 and threads of the forum
#
# Of models that are gone:
#
# * [M] Google AI Studio's mail on Gemini 1.5, quoted in rxliuli/llm-api-proxy#12 and openfoodfacts/open-prices#858; 404
#   since then: ECuiDev/obsidian-quiz-generator#43. Vertex AI: the retired models of [V], quoted in
#   epam/ai-dial-adapter-vertexai#298 and toeverything/AFFiNE#14583
# * [E] Google's mail on embedding models, quoted in langgenius/dify-official-plugins#1801; text-embedding-004: [C], 14
#   January 2026, and on Vertex AI genkit-ai/genkit#4551; textembedding-gecko: tmc/langchaingo#1300
# * [1] https://ai.google.dev/gemini-api/docs/changelog#02-18-2025 (deepset-ai/haystack-integrations#304) and, for
#   Vertex AI, https://cloud.google.com/vertex-ai/generative-ai/docs/deprecations/gemini-1.0-pro; pictures as input:
#   xtekky/gpt4free#2064
# * [L] https://ai.google.dev/palm_docs/deprecation and
#   https://cloud.google.com/vertex-ai/generative-ai/docs/deprecations/palm

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BackendName

ModelKind = Literal["generate", "embed", "image", "speech"]
"""What a model's answers hold: text, vectors, pictures or sound."""


@dataclass(frozen=True)
class Reroute:
    """From *when* on another model, *to*, answers in a model's place."""

    when: date
    to: str


@dataclass(frozen=True)
class ModelFacts:
    """
    What is known of one model.

    :param since: When it became available; None if unknown.
    :param shut_down: Per backend, from when on calls are refused to everybody.
    :param retires: Per backend, the date that is announced, and may move.
    :param closed_to_new_keys: Per backend, from when on it is refused to keys that have not used it.
    :param rerouted: Per backend, the model that is to answer in its place.
    :param replacement: The model that Google names in its place; where that one is gone too, the one named for it.
    :param ignores_sampling: Whether ``temperature``, ``topP`` and ``topK`` are accepted and ignored.
    :param refuses_prefill: Whether a request that ends with a turn of the model's is refused.
    :param thinks_by: Whether thinking is set by ``budget``, by ``level``, or by ``either``; empty if not known.
    :param levels: The values of ``thinkingLevel`` that it knows; empty if not known.
    :param ignores_task_type: Of an embedding model.
    """

    name: str
    kind: ModelKind = "generate"
    since: date | None = None
    shut_down: Mapping[BackendName, date] = field(default_factory=dict)
    retires: Mapping[BackendName, date] = field(default_factory=dict)
    closed_to_new_keys: Mapping[BackendName, date] = field(default_factory=dict)
    rerouted: Mapping[BackendName, Reroute] = field(default_factory=dict)
    replacement: str = ""
    ignores_sampling: bool = False
    refuses_prefill: bool = False
    thinks_by: Literal["", "budget", "level", "either"] = ""
    levels: tuple[str, ...] = ()
    ignores_task_type: bool = False


_EVERYWHERE_2_0: Mapping[BackendName, date] = {"gemini": date(2026, 6, 1), "vertex_ai": date(2026, 6, 1)}
_LEVELS = ("low", "medium", "high")


def _gone(
    names: str,
    replacement: str,
    kind: ModelKind = "generate",
    *,
    developer: date | None = None,
    vertex: date | None = None,
) -> Iterator[ModelFacts]:
    """Yield models that are gone from one backend or from both; on another they never were."""
    dates: dict[BackendName, date | None] = {"gemini": developer, "vertex_ai": vertex}
    shut_down = {backend: when for backend, when in dates.items() if when is not None}
    for name in names.split():
        yield ModelFacts(name, kind, shut_down=shut_down, replacement=replacement)


_FACTS = (
    # --- text: [D], [C]; sampling [C], on Vertex AI [P]; prefill [P]; thinking [T] ---
    ModelFacts("gemini-4-argon", ignores_sampling=True, refuses_prefill=True, thinks_by="level"),
    ModelFacts("gemini-3.8-flash", since=date(2026, 9, 2), ignores_sampling=True, refuses_prefill=True,
               thinks_by="either", levels=_LEVELS),
    ModelFacts("gemini-3.7-flash", since=date(2026, 8, 13), ignores_sampling=True, refuses_prefill=True,
               thinks_by="either", levels=_LEVELS),
    ModelFacts("gemini-3.6-flash", since=date(2026, 7, 21), ignores_sampling=True, refuses_prefill=True,
               thinks_by="either"),
    ModelFacts("gemini-3.5-flash-lite", since=date(2026, 7, 21), ignores_sampling=True, thinks_by="either"),
    ModelFacts("gemini-3.5-flash", since=date(2026, 5, 19), thinks_by="either"),
    ModelFacts("gemini-3.1-pro-preview", since=date(2026, 2, 19), thinks_by="either"),
    ModelFacts("gemini-3.1-flash-lite", since=date(2026, 5, 7), retires={"gemini": date(2027, 5, 7)},
               thinks_by="either"),
    ModelFacts("gemini-3.1-flash-lite-preview", since=date(2026, 3, 3), shut_down={"gemini": date(2026, 5, 25)},
               replacement="gemini-3.1-flash-lite"),
    ModelFacts("gemini-3-flash-preview", since=date(2025, 12, 17), replacement="gemini-3.5-flash", thinks_by="either"),
    ModelFacts("gemini-3-pro-preview", since=date(2025, 11, 18), shut_down={"gemini": date(2026, 3, 9)},
               replacement="gemini-3.1-pro-preview"),
    # --- 2.5: [D], [V], [R], [N] ---
    ModelFacts("gemini-2.5-pro", since=date(2025, 6, 17), retires={"vertex_ai": date(2026, 10, 16)},
               closed_to_new_keys={"gemini": date(2026, 8, 1)},
               rerouted={"gemini": Reroute(date(2026, 12, 1), "gemini-3.8-flash")},
               replacement="gemini-3.8-flash", thinks_by="budget"),
    ModelFacts("gemini-2.5-flash", since=date(2025, 6, 17), retires={"vertex_ai": date(2026, 10, 16)},
               closed_to_new_keys={"gemini": date(2026, 7, 1)},
               rerouted={"gemini": Reroute(date(2026, 12, 1), "gemini-3.5-flash-lite")},
               replacement="gemini-3.5-flash-lite", thinks_by="budget"),
    ModelFacts("gemini-2.5-flash-lite", since=date(2025, 7, 22), retires={"vertex_ai": date(2026, 10, 16)},
               thinks_by="budget"),
    # --- 2.0: [D]; Vertex AI: the same day, [V] ---
    *(
        ModelFacts(name, since=date(2025, 2, 5), shut_down=_EVERYWHERE_2_0, replacement=replacement)
        for name, replacement in (
            ("gemini-2.0-flash", "gemini-3.5-flash"),
            ("gemini-2.0-flash-001", "gemini-3.5-flash"),
            ("gemini-2.0-flash-lite", "gemini-3.1-flash-lite"),
            ("gemini-2.0-flash-lite-001", "gemini-3.1-flash-lite"),
        )
    ),
    # --- pictures: [D] ---
    ModelFacts("gemini-3-pro-image", "image", since=date(2026, 5, 28)),
    ModelFacts("gemini-3.1-flash-image", "image", since=date(2026, 5, 28)),
    ModelFacts("gemini-3.1-flash-lite-image", "image"),
    ModelFacts("gemini-2.5-flash-image", "image", since=date(2025, 10, 2), retires={"gemini": date(2026, 10, 2)},
               replacement="gemini-3.1-flash-image"),
    ModelFacts("gemini-3-pro-image-preview", "image", since=date(2025, 11, 20),
               shut_down={"gemini": date(2026, 6, 25)}, replacement="gemini-3-pro-image"),
    ModelFacts("gemini-3.1-flash-image-preview", "image", since=date(2026, 2, 26),
               shut_down={"gemini": date(2026, 6, 25)}, replacement="gemini-3.1-flash-image"),
    # --- vectors: https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/embeddings/
    # batch-prediction-genai-embeddings ---
    ModelFacts("gemini-embedding-2", "embed", ignores_task_type=True),
    ModelFacts("gemini-embedding-001", "embed"),
    ModelFacts("text-embedding-005", "embed"),
    ModelFacts("text-multilingual-embedding-002", "embed"),
    # --- previews of 2.0 and 2.5 that are gone: [D], [C] ---
    *_gone("gemini-2.5-pro-preview-03-25 gemini-2.5-pro-preview-05-06 gemini-2.5-pro-preview-06-05",
           "gemini-3.1-pro-preview", developer=date(2025, 12, 2)),
    *_gone("gemini-2.5-flash-preview-04-17", "gemini-3.5-flash", developer=date(2025, 7, 15)),
    *_gone("gemini-2.5-flash-preview-05-20", "gemini-3.5-flash", developer=date(2025, 11, 18)),
    *_gone("gemini-2.5-flash-preview-09-25 gemini-2.5-flash-preview-09-2025", "gemini-3.5-flash",
           developer=date(2026, 2, 17)),
    *_gone("gemini-2.5-flash-lite-preview-09-2025", "gemini-3.1-flash-lite", developer=date(2026, 3, 31)),
    *_gone("gemini-2.0-flash-lite-preview gemini-2.0-flash-lite-preview-02-05", "gemini-3.1-flash-lite",
           developer=date(2025, 12, 9)),
    *_gone("gemini-2.0-flash-preview-image-generation gemini-2.0-flash-exp-image-generation", "gemini-3.1-flash-image",
           "image", developer=date(2025, 11, 14)),
    *_gone("gemini-2.5-flash-image-preview", "gemini-3.1-flash-image", "image", developer=date(2026, 1, 15)),
    # --- Gemini 1.5: [M] ---
    *_gone("gemini-1.5-pro gemini-1.5-pro-002", "gemini-3.1-pro-preview",
           developer=date(2025, 9, 24), vertex=date(2025, 9, 24)),
    *_gone("gemini-1.5-flash gemini-1.5-flash-002", "gemini-3.5-flash",
           developer=date(2025, 9, 24), vertex=date(2025, 9, 24)),
    *_gone("gemini-1.5-pro-latest", "gemini-3.1-pro-preview", developer=date(2025, 9, 24)),
    *_gone("gemini-1.5-flash-latest", "gemini-3.5-flash", developer=date(2025, 9, 24)),
    *_gone("gemini-1.5-flash-8b gemini-1.5-flash-8b-001 gemini-1.5-flash-8b-latest", "gemini-3.1-flash-lite",
           developer=date(2025, 9, 24)),
    *_gone("gemini-1.5-pro-001", "gemini-3.1-pro-preview", developer=date(2025, 5, 27), vertex=date(2025, 5, 24)),
    *_gone("gemini-1.5-flash-001", "gemini-3.5-flash", developer=date(2025, 5, 27), vertex=date(2025, 5, 24)),
    # --- Gemini 1.0: [1] ---
    *_gone("gemini-pro gemini-1.0-pro gemini-1.0-pro-001 gemini-1.0-pro-002 gemini-1.0-pro-latest", "gemini-3.5-flash",
           developer=date(2025, 2, 18), vertex=date(2025, 4, 9)),
    *_gone("gemini-pro-vision gemini-1.0-pro-vision gemini-1.0-pro-vision-001 gemini-1.0-pro-vision-latest",
           "gemini-3.5-flash", developer=date(2024, 7, 12), vertex=date(2025, 4, 9)),
    # --- PaLM: [L] ---
    *_gone("text-bison-001 chat-bison-001", "gemini-3.5-flash", developer=date(2024, 8, 15)),
    *_gone("text-bison text-bison-32k text-unicorn chat-bison chat-bison-32k code-bison code-bison-32k code-gecko "
           "codechat-bison codechat-bison-32k", "gemini-3.5-flash", vertex=date(2025, 4, 9)),
    # --- vectors: [E] ---
    *_gone("embedding-001 embedding-gecko-001 gemini-embedding-exp gemini-embedding-exp-03-07", "gemini-embedding-2",
           "embed", developer=date(2025, 10, 30)),
    *_gone("text-embedding-004", "gemini-embedding-2", "embed",
           developer=date(2026, 1, 14), vertex=date(2026, 1, 14)),
    *_gone("textembedding-gecko textembedding-gecko-multilingual", "text-embedding-005", "embed",
           vertex=date(2025, 5, 24)),
)  # fmt: skip

_TABLE: Mapping[str, ModelFacts] = {facts.name: facts for facts in _FACTS}
_ALIASES: Mapping[str, str] = {"gemini-flash-latest": "gemini-3.8-flash"}
"""Names that point to a model which changes; [C], 2 September 2026."""


def canonical(model: str) -> str:
    """
    Return a model's bare name: without the path before it, the version behind ``@``, in lower case.

    >>> canonical("publishers/google/models/gemini-2.5-flash@default")
    'gemini-2.5-flash'
    """
    return model.strip().rpartition("/")[2].partition("@")[0].lower()


def model_facts(model: str) -> ModelFacts | None:
    """Return what is known of a model, by any of its names; None if nothing is."""
    name = canonical(model)
    return _TABLE.get(_ALIASES.get(name, name))


def known_models() -> tuple[ModelFacts, ...]:
    """Return all models of the table."""
    return _FACTS


def model_kind(model: str) -> ModelKind | None:
    """Return what a model's answers hold, by the table or, for an unknown model, by its name; None if neither tells."""
    facts = model_facts(model)
    if facts is not None:
        return facts.kind
    name = canonical(model)
    if "embedding" in name:
        return "embed"
    if "-image" in name or name.startswith("imagen"):
        return "image"
    return "speech" if name.endswith("-tts") or "-tts-" in name or "native-audio" in name else None


def answering_model(model: str, backend: BackendName, on: date) -> str:
    """Return the model that answers on a day when *model* is asked for: itself, unless calls are rerouted."""
    facts = model_facts(model)
    if facts is None:
        return canonical(model)
    rerouted = facts.rerouted.get(backend)
    return rerouted.to if rerouted is not None and on >= rerouted.when else facts.name


def rerouted_to(model: str, on: date) -> str | None:
    """Return the model that answers in *model*'s place on the Developer API on a day; None if it answers itself."""
    facts = model_facts(model)
    rerouted = None if facts is None else facts.rerouted.get("gemini")
    return rerouted.to if rerouted is not None and on >= rerouted.when else None
