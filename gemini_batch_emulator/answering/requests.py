# SPDX-License-Identifier: Apache-2.0
"""What a request holds: text, media, settings."""

# Member names are accepted in camelCase and in snake_case, as the service does. Settings that many rows share
# (`generationConfig`, `systemInstruction`, ...) are read once: `settings_of` keeps what it made of them.

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from gemini_batch_emulator.answering.draws import number_of
from gemini_batch_emulator.answering.schemas import Maker, maker_of

MEDIA_TOKENS = {"IMAGE": 258, "AUDIO": 320, "VIDEO": 2630, "DOCUMENT": 258}
"""Input tokens of one file. The service counts pixels, seconds and pages; here no file is looked at."""

_APART = frozenset({"contents", "content", "model", "labels", "serviceTier", "service_tier"})
"""Members that are no settings: what is asked, and what changes no answer."""


@lru_cache(maxsize=4096)
def snake(name: str) -> str:
    """Write a camelCase name in snake_case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def member(values: Any, name: str) -> Any:
    """Return a member by its camelCase name, also where the client wrote snake_case."""
    if not isinstance(values, Mapping):
        return None
    if name in values:
        return values[name]
    return values.get(snake(name))


def contents_of(request: Mapping[str, Any]) -> list[Any]:
    """Return the contents of a request of either kind as a list."""
    contents = request.get("contents")
    if contents is None:
        contents = request.get("content")
    if contents is None:
        return []
    return contents if isinstance(contents, list) else [contents]


def texts_of(contents: list[Any]) -> list[str]:
    """Return every text in *contents*, in order."""
    texts = []
    for content in contents:
        if isinstance(content, str):
            texts.append(content)
            continue
        parts = content.get("parts") if isinstance(content, Mapping) else None
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                texts.append(part["text"])
    return texts


def prompt_text(request: Mapping[str, Any]) -> str:
    """Return all text of a request's contents."""
    return "\n".join(texts_of(contents_of(request)))


def media_of(contents: list[Any]) -> dict[str, int]:
    """Return the input tokens of the files in *contents*, by modality."""
    found: dict[str, int] = {}
    for content in contents:
        parts = content.get("parts") if isinstance(content, Mapping) else None
        for part in parts if isinstance(parts, list) else ():
            file = member(part, "inlineData") or member(part, "fileData")
            if file is None:
                continue
            kind = str(member(file, "mimeType") or "application/pdf").partition("/")[0].upper()
            modality = kind if kind in MEDIA_TOKENS else "DOCUMENT"
            found[modality] = found.get(modality, 0) + MEDIA_TOKENS[modality]
    return found


def count_tokens(text: str) -> int:
    """Return a token count: four characters a token, at least one for any text."""
    # Deterministic and cheap: what a test asserts of tokens holds on every machine. Estimates of clients are tested by
    # knobs (`output_tokens`), not by this.
    return (len(text) + 3) // 4


def input_tokens(request: Mapping[str, Any]) -> int:
    """Return the tokens of a request's prompt, files and system instruction included."""
    contents = contents_of(request)
    system = member(request, "systemInstruction")
    tokens = count_tokens("\n".join(texts_of(contents))) + sum(media_of(contents).values())
    return tokens + (count_tokens("\n".join(texts_of([system]))) if system else 0)


def token_count(request: dict[str, Any]) -> dict[str, Any]:
    """Count a request's input: contents, system instruction, tools and a cache's content."""
    contents = contents_of(request)
    system = member(request, "systemInstruction")
    text = count_tokens("\n".join(texts_of(contents)))
    text += count_tokens("\n".join(texts_of([system]))) if system else 0
    text += count_tokens(str(request["tools"])) if request.get("tools") else 0
    media = media_of(contents)
    details = [{"modality": "TEXT", "tokenCount": text}] if text else []
    details += [{"modality": name, "tokenCount": tokens} for name, tokens in media.items()]
    answer: dict[str, Any] = {"totalTokens": text + sum(media.values())}
    if member(request, "cachedContent"):
        answer["cachedContentTokenCount"] = answer["totalTokens"]
    if details:
        answer["promptTokensDetails"] = details
    return answer


@dataclass(frozen=True)
class Settings:
    """
    What a request asks for beside its contents.

    :param number: Hash of all of it; equal settings in another spelling or order have the same.
    :param limit: ``maxOutputTokens``.
    :param make: Makes a value that fits the schema, where JSON is asked for.
    :param is_json_schema: Whether that schema stood in ``responseJsonSchema``.
    :param options: What may be said where the answer is one of an enum.
    :param has_thoughts: Whether thoughts are to be shown.
    :param makes_images: Whether an image is asked for.
    """

    number: int
    system: str = ""
    limit: int | None = None
    make: Maker | None = None
    is_json_schema: bool = False
    options: tuple[str, ...] = ()
    has_thoughts: bool = False
    makes_images: bool = False
    has_cache: bool = False
    problem: str | None = None
    dimensions: int | None = None
    task: str = ""
    system_tokens: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "system_tokens", count_tokens(self.system) if self.system else 0)


def _spelt(value: Any) -> Any:
    """The same value with every member's name in snake_case, but for the names that users give in a schema."""
    if isinstance(value, Mapping):
        return {
            snake(name): inner if name in ("properties", "$defs", "defs", "args", "response") else _spelt(inner)
            for name, inner in value.items()
        }
    return [_spelt(entry) for entry in value] if isinstance(value, list) else value


@lru_cache(maxsize=256)
def _settings(encoded: bytes) -> Settings:
    return _read_settings(msgspec.json.decode(encoded))


def settings_of(request: Mapping[str, Any]) -> Settings:
    """Return the settings of a request of either kind; read once for all requests with the same ones."""
    # Keyed by JSON text: rows of a job share their settings as a rule, and a schema is compiled once for all of them.
    shared = {name: value for name, value in request.items() if value and name not in _APART}
    return _settings(msgspec.json.encode(shared))


@lru_cache(maxsize=256)
def settings_of_parts(config: bytes, system: bytes) -> Settings:
    """Return the settings of a request that has no others than these two, given as JSON (empty: absent)."""
    shared = {}
    if config:
        shared["generationConfig"] = msgspec.json.decode(config)
    if system:
        shared["systemInstruction"] = msgspec.json.decode(system)
    return _read_settings(shared)


def _read_settings(shared: dict[str, Any]) -> Settings:
    config = member(shared, "generationConfig")
    embed = member(shared, "embedContentConfig")
    system = member(shared, "systemInstruction")
    limit = member(config, "maxOutputTokens")
    mime_type = member(config, "responseMimeType")
    schema = member(config, "responseSchema") or member(config, "responseJsonSchema")
    make = None
    options: tuple[str, ...] = ()
    if mime_type == "text/x.enum":
        options = tuple(str(option) for option in (schema or {}).get("enum") or ())
    elif mime_type == "application/json":
        make = maker_of(schema)
    problem = None
    # Only the model finds this, so that it is the row's error and not one of the create call.
    if shared.get("tools") and mime_type == "application/json":
        problem = "Tool use with a response mime type: 'application/json' is unsupported"
    dimensions = member(shared, "outputDimensionality") or member(embed, "outputDimensionality")
    return Settings(
        number=number_of(msgspec.json.encode(_spelt(shared), order="deterministic").decode()),
        system="\n".join(texts_of([system])) if system else "",
        limit=None if limit is None else int(limit),
        make=make,
        is_json_schema=bool(member(config, "responseJsonSchema")),
        options=options,
        has_thoughts=bool(member(member(config, "thinkingConfig"), "includeThoughts")),
        makes_images="IMAGE" in (member(config, "responseModalities") or ()),
        has_cache=bool(member(shared, "cachedContent")),
        problem=problem,
        dimensions=int(dimensions) if dimensions else None,
        task=str(member(shared, "taskType") or member(embed, "taskType") or ""),
    )
