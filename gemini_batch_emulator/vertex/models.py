# SPDX-License-Identifier: Apache-2.0
"""Models of Vertex AI: which exist where, and ``countTokens``."""

# Sources: https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/capabilities/batch-inference,
# https://aiplatform.googleapis.com/$discovery/rest?version=v1 (`publishers.models.countTokens`).

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gemini_batch_emulator.answering.requests import contents_of, member, prompt_text, texts_of, token_count
from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.messages import refuse_unknown
from gemini_batch_emulator.replies import read_json, reply
from gemini_batch_emulator.vertex.access import Access
from gemini_batch_emulator.vertex.creation import invalid

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.state import EmulatorState

COUNT_FIELDS = frozenset({"contents", "systemInstruction", "tools", "generationConfig", "model", "instances"})
_LEGACY = re.compile(r"(text-embedding-|text-multilingual-embedding-|textembedding-gecko)")
_LIKELY = re.compile(r"(gemini-|text-embedding-|text-multilingual-embedding-|textembedding-gecko)[\w.@-]+")


def is_legacy(model: str) -> bool:
    """Whether a model has the rows of the text embedding models before Gemini's."""
    return _LEGACY.match(model.rpartition("/")[2]) is not None


def check_model(state: EmulatorState, model: str, project: str, location: str) -> str:
    """
    Check that a model can be used here.

    :return: Its short name, e.g. ``gemini-3.5-flash-lite``.
    :raises GoogleError: 404 if it does not exist, 400 if it cannot be used in *location*.
    """
    config = state.config
    tuned = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)/models/([^/]+)", model)
    if tuned:
        if tuned[2] != location:
            raise GoogleError(
                400, f"The model {model} is in location {tuned[2]}, the batch prediction job in {location}."
            )
        # https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini
        if location == "global":
            raise GoogleError(400, "Tuned models are not supported in the global location.")
        known = config.tuned_models
        if known is not None and model.partition("@")[0] not in known:
            raise GoogleError(404, f'The Model "{model}" does not exist.')
        return tuned[3]
    published = re.fullmatch(r"(?:projects/[^/]+/locations/[^/]+/)?publishers/([^/]+)/models/([^/]+)", model)
    if published is None:
        raise invalid("model", f"{model!r} is not a model's resource name.")
    name = published[2]
    short = name.partition("@")[0]
    exists = short in config.models if config.models is not None else bool(_LIKELY.fullmatch(name))
    if published[1] != "google" or not exists or short in config.vertex_retired_models:
        raise GoogleError(404, f'The PublisherModel "{model}" does not exist.')
    served = config.model_locations.get(short)
    if served is not None and location not in served:
        raise GoogleError(
            404,
            f"Publisher Model `projects/{project}/locations/{location}/publishers/{published[1]}/models/{name}` was "
            f"not found or is not available in location {location}. It is available in: {', '.join(served)}.",
        )
    return short


class Models:
    """Handlers of one version of the API."""

    def __init__(self, state: EmulatorState, version: str) -> None:
        self._state = state
        self._access = Access(state)
        self._version = version

    def routes(self) -> list[Route]:
        """The routes."""
        parent = f"/{self._version}/projects/{{project}}/locations/{{location}}"
        path = f"{parent}/publishers/google/models/{{model}}:countTokens"
        return [Route(path, self.count_tokens, methods=["POST"], name="vertex.models.count_tokens")]

    async def count_tokens(self, request: Request) -> Response:
        """``countTokens``: contents, system instruction, tools and settings side by side."""
        state = self._state
        project, location, _ = self._access.enter(request)
        body = await read_json(request)
        name = request.path_params["model"]
        check_model(state, f"publishers/google/models/{name}", project, location)
        refuse_unknown(body, COUNT_FIELDS, "")
        if not contents_of(body):
            raise GoogleError(400, "Unable to submit request because it must have a contents field.")
        answer: dict[str, Any] = token_count(body)
        answer.pop("cachedContentTokenCount", None)
        text = prompt_text(body) + "".join(texts_of([member(body, "systemInstruction")]))
        answer["totalBillableCharacters"] = len("".join(text.split()))
        return reply(state, request, answer)


def routes(state: EmulatorState) -> list[Route]:
    """The routes of models, for both versions."""
    return [route for version in ("v1", "v1beta1") for route in Models(state, version).routes()]
