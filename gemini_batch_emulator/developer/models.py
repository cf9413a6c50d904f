# SPDX-License-Identifier: Apache-2.0
"""Models of the Developer API: list, get, ``countTokens`` and plain ``generateContent``."""

# `generateContent` is there for `serviceTier: "flex"`, the neighbour of batch: the same answers at once, unless the
# call is shed (knobs `flex_shed` and `flex_seconds`). Without a tier it answers, too.
#
# Sources: https://ai.google.dev/api/models, https://ai.google.dev/api/tokens,
# https://ai.google.dev/api/generate-content.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from gemini_batch_emulator import models
from gemini_batch_emulator.answering.requests import member, token_count
from gemini_batch_emulator.answers import output_tokens
from gemini_batch_emulator.developer.access import VERSIONS, require_key
from gemini_batch_emulator.developer.checks import GENERATE_FIELDS, RowProblem, check_request
from gemini_batch_emulator.developer.creation import check_model
from gemini_batch_emulator.errors import GoogleError
from gemini_batch_emulator.messages import refuse_unknown
from gemini_batch_emulator.replies import read_json, reply
from gemini_batch_emulator.states import HTTP_OF_GRPC
from gemini_batch_emulator.synchronous import answer_now

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gemini_batch_emulator.state import EmulatorState

TIERS = ("standard", "flex", "priority")


class Models:
    """Handlers of one version of the API."""

    def __init__(self, state: EmulatorState, version: str) -> None:
        self._state = state
        self._version = version

    def routes(self) -> list[Route]:
        """The routes."""
        name = "developer.models"
        model = f"/{self._version}/models/{{model}}"
        return [
            Route(model + ":countTokens", self.count_tokens, methods=["POST"], name=f"{name}.count_tokens"),
            Route(model + ":generateContent", self.generate, methods=["POST"], name=f"{name}.generate"),
            Route(f"/{self._version}/models", self.list, methods=["GET"], name=f"{name}.list"),
            Route(model, self.get, methods=["GET"], name=f"{name}.get"),
        ]

    async def list(self, request: Request) -> Response:
        """The models there are; those that the key can no longer use are not among them."""
        state = self._state
        key = require_key(state, request)
        names = state.config.models or models.CURRENT
        shown = [name for name in names if not models.is_retired_for(state.config, name, key)]
        return reply(state, request, {"models": [_resource(name) for name in shown]})

    async def get(self, request: Request) -> Response:
        """One model."""
        state = self._state
        key = require_key(state, request)
        name = request.path_params["model"]
        method = "asyncBatchEmbedContent" if models.is_embedding(name) else "batchGenerateContent"
        check_model(state, f"models/{name}", method, self._version, key)
        return reply(state, request, _resource(name))

    async def count_tokens(self, request: Request) -> Response:
        """``countTokens``: of contents alone, or of a whole request, never of both."""
        state = self._state
        key = require_key(state, request)
        name = request.path_params["model"]
        body = await read_json(request)
        check_model(state, f"models/{name}", "countTokens", self._version, key)
        refuse_unknown(body, frozenset({"contents", "generateContentRequest"}), "")
        whole = member(body, "generateContentRequest")
        # https://ai.google.dev/api/tokens: one of the two.
        if (whole is None) == (body.get("contents") is None):
            raise GoogleError(
                400,
                "* CountTokensRequest.contents: exactly one of contents and generate_content_request must be set.",
            )
        if whole is not None:
            if not isinstance(whole, dict):
                raise GoogleError(400, "Invalid value at 'generate_content_request': must be an object.")
            if not whole.get("model"):
                raise GoogleError(400, "* CountTokensRequest.generate_content_request.model: model is required.")
            refuse_unknown(whole, GENERATE_FIELDS, "generate_content_request")
        return reply(state, request, token_count(whole if whole is not None else body))

    async def generate(self, request: Request) -> Response:
        """``generateContent``: the answer at once; a call of the tier flex may be shed."""
        state = self._state
        key = require_key(state, request)
        name = request.path_params["model"]
        body = await read_json(request)
        check_model(state, f"models/{name}", "generateContent", self._version, key)
        try:
            check_request("generate", body)
        except RowProblem as problem:
            refuse_unknown(body, GENERATE_FIELDS, "")
            raise GoogleError(400, f"Invalid value: {problem}") from None
        tier = str(member(body, "serviceTier") or "standard").lower()
        if tier not in TIERS:
            raise GoogleError(400, f"Invalid value at 'service_tier': \"{tier}\"")
        if tier == "flex":
            await self._wait_or_shed()
        response = answer_now(state, f"models/{name}", body)
        if "error" in response:
            error = response["error"]
            state.synchronous.shed += 1
            raise GoogleError(HTTP_OF_GRPC.get(error["code"], 500), error.get("message", ""))
        state.synchronous.answered += 1
        state.synchronous.input_tokens += response["usageMetadata"]["promptTokenCount"]
        state.synchronous.output_tokens += output_tokens(response)
        return reply(state, request, response)

    async def _wait_or_shed(self) -> None:
        state = self._state
        if state.config.flex_seconds:
            await asyncio.sleep(state.config.flex_seconds)
        with state.lock:
            # A list of answers to come, one for each call: 429 and 503 are how the tier sheds load.
            status = state.config.flex_shed.pop(0) if state.config.flex_shed else 200
        if status != 200:
            state.synchronous.shed += 1
            message = "Resource has been exhausted." if status == 429 else "The model is overloaded."
            raise GoogleError(status, f"{message} Please try again later.")


def _resource(name: str) -> dict[str, Any]:
    if models.is_embedding(name):
        methods = ["embedContent", "countTokens", "asyncBatchEmbedContent"]
    else:
        methods = ["generateContent", "countTokens", "batchGenerateContent"]
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}


def routes(state: EmulatorState) -> list[Route]:
    """The routes of models, for both versions."""
    return [route for version in VERSIONS for route in Models(state, version).routes()]
