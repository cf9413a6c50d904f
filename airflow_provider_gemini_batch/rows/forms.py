# SPDX-License-Identifier: Apache-2.0
"""
Input rows: every form a user may write, checked and brought to the one form a backend wants.

The rules of this module:

* Rows stream. Memory grows only by the keys seen, up to 16 MB for a million rows (:class:`KeySet`).
* What can be known before a job is submitted is said before: all that is wrong with the first ten bad rows, in one
  :class:`ConfigurationError` that names line, key and the way out.
* Rows leave in camelCase wherever the service knows both spellings, since Vertex AI's importer makes one column of each
  spelling. Names that users choose (schema properties, function arguments, labels) stay as they are.
* Vertex AI loads a file as BigQuery loads JSON: one type a path over the whole file, and one odd row fails the job.
  :class:`VertexImportCheck` holds its rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows.fast_path import CommonBlock, CommonRows
from airflow_provider_gemini_batch.rows.keys import KEY_PREFIX, MAX_KEY_LENGTH, KeySet
from airflow_provider_gemini_batch.rows.line_batches import read_in_blocks

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.models import BackendName, Kind

T = TypeVar("T")

MAX_BAD_ROWS = 10
MAX_DEPTH = 15
_GIB = 1024**3

# https://ai.google.dev/gemini-api/docs/batch-api (2 GB) and
# https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini (1 GB)
MAX_FILE_BYTES: Mapping[BackendName, int] = {"gemini": 2 * _GIB, "vertex_ai": _GIB}

_GENERATION_MEMBERS = frozenset(
    {
        "temperature",
        "topP",
        "topK",
        "candidateCount",
        "maxOutputTokens",
        "stopSequences",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "presencePenalty",
        "frequencyPenalty",
        "seed",
        "responseLogprobs",
        "logprobs",
        "thinkingConfig",
        "responseModalities",
        "speechConfig",
        "mediaResolution",
        "audioTimestamp",
        "routingConfig",
        "modelConfig",
        "imageConfig",
        "enableEnhancedCivicAnswers",
        "enableAffectiveDialog",
    }
)
_GENERATE_MEMBERS = frozenset(
    {
        "contents",
        "systemInstruction",
        "generationConfig",
        "safetySettings",
        "tools",
        "toolConfig",
        "cachedContent",
        "labels",
        "model",
        "modelArmorConfig",
    }
)
_EMBED_MEMBERS = frozenset({"content", "taskType", "title", "outputDimensionality", "embedContentConfig", "model"})
_EMBED_SETTINGS = ("taskType", "title", "outputDimensionality")
# Below these names the caller chooses the words.
_OPAQUE = frozenset(
    {
        "responseJsonSchema",
        "parametersJsonSchema",
        "args",
        "response",
        "labels",
        "default",
        "example",
        "enum",
        "required",
        "propertyOrdering",
    }
)
_NAMED = frozenset({"properties"})
# Leaving these out when empty says the same as sending them. An empty tool (``googleSearch: {}``) does not.
_HARMLESS_EMPTY = frozenset(
    {
        "properties",
        "args",
        "generationConfig",
        "labels",
        "thinkingConfig",
        "toolConfig",
        "functionCallingConfig",
        "response",
        "embed_content_config",
        "speechConfig",
        "imageConfig",
        "videoMetadata",
    }
)
_LEGACY_EMBEDDING = re.compile(r"(text-embedding-0|text-multilingual-embedding-|textembedding-gecko|multilingual-e5)")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
_SNAKE = re.compile(r"(?<=[a-z0-9A-Z])_([a-z0-9])")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_TOO_DEEP = "objects or lists are nested too deeply"
_REPEATED = "this key was there before; keys tell answers apart and must be unique"


@dataclass(frozen=True)
class RowSettings:
    """
    What applies to all rows of a job.

    :param kind: ``generate`` or ``embed``.
    :param model: With or without ``models/``; tells legacy embedding models apart. Empty while it is not known, as when
        a file is uploaded for later.
    :param generation_config: Members for every row that does not set the same one; either spelling.
    :param system_instruction: Text, or a ``Content`` dict, for rows without their own.
    :param output_dimensionality: Length of the vectors.
    """

    kind: Kind = "generate"
    backend: BackendName = "gemini"
    model: str = ""
    generation_config: Mapping[str, Any] | None = None
    system_instruction: str | Mapping[str, Any] | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None

    @property
    def is_legacy_embedding(self) -> bool:
        """Whether rows are ``{"content": "text"}``: the embedding models before Gemini's, on Vertex AI."""
        return (
            self.kind == "embed"
            and self.backend == "vertex_ai"
            and bool(_LEGACY_EMBEDDING.match(self.model.rpartition("/")[2]))
        )

    @property
    def max_rows(self) -> int | None:
        """
        Rows allowed in one job, or None if no limit is published (Developer API).

        Source: https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini and
        https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/embeddings/batch-prediction-genai-embeddings
        """
        if self.backend != "vertex_ai":
            return None
        if self.kind == "generate":
            return 200_000
        return 30_000 if self.is_legacy_embedding else 1_000_000


class WireRow:
    """One row as the backend wants it. ``number`` is the line it came from, counted from 1."""

    __slots__ = ("_metadata", "_request", "_wire", "key", "number")

    def __init__(
        self,
        key: str,
        number: int,
        wire: bytes,
        metadata: Mapping[str, Any] | None = None,
        request: bytes | None = None,
    ) -> None:
        self.key = key
        self.number = number
        self._wire = wire
        self._metadata = metadata
        self._request = request

    def line(self) -> bytes:
        """Return one line of an input file, newline included."""
        return self._wire

    def body(self) -> bytes:
        """Return the request alone."""
        return self._request if self._request is not None else bytes(_request_of(self._wire).request)

    def inline(self) -> dict[str, Any]:
        """Return ``{"request": ..., "metadata": {"key": ...}}``, as the Developer API takes rows in a create call."""
        return {"request": _decode(self.body()), "metadata": {**(self._metadata or {}), "key": self.key}}


class RowProblem(Exception):
    """What is wrong with one row; the text is for people. Leaves this module only inside a ConfigurationError."""


class _Column:
    __slots__ = ("items", "kind", "line", "members", "spellings")

    def __init__(self) -> None:
        self.kind = ""
        self.line = 0
        self.members: dict[str, _Column] = {}
        self.spellings: dict[str, str] = {}
        self.items: _Column | None = None


class VertexImportCheck:
    """
    Vertex AI's importer rules over all rows of a file; :meth:`add` sees each row once, in order.

    One kind (object, array or plain value) a path, at most 15 levels, names that a BigQuery column may have, no empty
    objects, no arrays in arrays. Rows come here after :func:`clean_for_import`.

    Source: runs reported in https://github.com/OpenRouterTeam/docs (batch research on Vertex, September 2026) and
    https://cloud.google.com/bigquery/docs/loading-data-cloud-storage-json; Google does not document the importer.
    """

    def __init__(self) -> None:
        self._root = _Column()

    def add(self, row: Mapping[str, Any], line: int) -> None:
        """
        Take a row in.

        :raises RowProblem: If the importer would refuse the whole file because of it.
        """
        self._object(self._root, row, 0, "", line)

    def _object(self, column: _Column, value: Mapping[str, Any], depth: int, path: str, line: int) -> None:
        if depth > MAX_DEPTH:
            raise RowProblem(
                f"{path} lies deeper than {MAX_DEPTH} levels, which Vertex AI's importer refuses; flatten it"
            )
        if not value and path:
            raise RowProblem(
                f"{path} is an empty object, which Vertex AI's importer refuses for the whole file; "
                "give it a member, or use the Developer API"
            )
        for name, member in value.items():
            where = f"{path}.{name}" if path else name
            below = column.members.get(name)
            if below is None:
                if not _COLUMN.fullmatch(name):
                    raise RowProblem(
                        f"the name {name!r} in {where} cannot be a column of Vertex AI's importer: letters, digits "
                        "and _ "
                        "only, not beginning with a digit, at most 300 characters"
                    )
                # Columns know no case.
                other = column.spellings.setdefault(name.lower(), name)
                if other != name:
                    raise RowProblem(
                        f"{where} and {other!r} differ in case alone, which makes them one column; rename one"
                    )
                below = column.members[name] = _Column()
            self._value(below, member, depth + 1, where, line)

    def _value(self, column: _Column, value: Any, depth: int, path: str, line: int) -> None:
        kind = "an object" if isinstance(value, Mapping) else "an array" if isinstance(value, list) else "a plain value"
        if not column.kind:
            column.kind, column.line = kind, line
        elif column.kind != kind:
            raise RowProblem(
                f"{path} is {kind} here and {column.kind} in line {column.line}; Vertex AI's importer wants "
                "one kind in "
                "the whole file: write it alike in all rows, or use two jobs"
            )
        if isinstance(value, Mapping):
            self._object(column, value, depth, path, line)
        elif isinstance(value, list):
            items = column.items
            if items is None:
                items = column.items = _Column()
            for entry in value:
                if isinstance(entry, list):
                    raise RowProblem(f"{path} holds an array in an array, which Vertex AI's importer refuses")
                if entry is None:
                    raise RowProblem(f"{path} holds null, which Vertex AI's importer refuses in an array")
                self._value(items, entry, depth, f"{path}[]", line)


def clean_for_import(value: Any) -> Any:
    """Return *value* without nulls and without the empty objects that mean nothing, as Vertex AI's importer needs."""
    if isinstance(value, Mapping):
        out = {}
        for name, member in value.items():
            if member is None:
                continue
            cleaned = clean_for_import(member)
            if cleaned == {} and isinstance(cleaned, dict) and name in _HARMLESS_EMPTY:
                continue
            out[name] = cleaned
        return out
    if isinstance(value, list):
        return [clean_for_import(entry) for entry in value]
    return value


def camel(name: str) -> str:
    """Return ``max_output_tokens`` as ``maxOutputTokens``."""
    return _SNAKE.sub(lambda match: match[1].upper(), name) if "_" in name else name


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


def camelise(value: Any) -> Any:
    """
    Return *value* with the service's own names in camelCase; names that users choose stay.

    :raises RowProblem: If a member is there in both spellings.
    """
    if isinstance(value, Mapping):
        out: dict[str, Any] = {}
        for name, member in value.items():
            if not isinstance(name, str):
                raise RowProblem(f"the name {name!r} is not a string")
            new = camel(name)
            if new in out:
                raise RowProblem(f"{new!r} is there twice, in two spellings; keep one")
            if new in _OPAQUE:
                out[new] = member
            elif new in _NAMED and isinstance(member, Mapping):
                out[new] = {own: camelise(schema) for own, schema in member.items()}
            else:
                out[new] = camelise(member)
        return out
    if isinstance(value, (list, tuple)):
        return [camelise(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        # Its order differs from process to process, and with it what is computed and the mark of it.
        raise RowProblem("a set has no order; write a list")
    if isinstance(value, float) and not math.isfinite(value):
        raise RowProblem(f"{value} is no number of JSON")
    return value


def check_file_size(size: int, backend: BackendName) -> None:
    """
    Refuse a file the backend would not take.

    :raises ConfigurationError: If *size* bytes are too many.
    """
    limit = MAX_FILE_BYTES[backend]
    if size > limit:
        name = "Vertex AI" if backend == "vertex_ai" else "The Gemini Developer API"
        raise ConfigurationError(
            f"{name} takes input files of up to {limit // _GIB} GiB, and this one passes that ({size:,} "
            "bytes or more); "
            "split the rows over several jobs, e.g. with dynamic task mapping."
        )


class _RequestHolder(msgspec.Struct):
    request: msgspec.Raw


class _KeyHolder(msgspec.Struct, gc=False):
    key: str | None = None


class _KeyRow(msgspec.Struct, gc=False):
    key: str | None = None
    metadata: _KeyHolder | None = None


_request_of = msgspec.json.Decoder(_RequestHolder).decode
_key_row = msgspec.json.Decoder(_KeyRow).decode


class _Normaliser:
    """Settings prepared once, and what has been seen so far."""

    system_instruction: dict[str, Any] | None = None

    def __init__(self, settings: RowSettings) -> None:
        self.settings = settings
        self.vertex = settings.backend == "vertex_ai"
        self.is_embedding = settings.kind == "embed"
        self.is_legacy = settings.is_legacy_embedding
        self.keys = KeySet()
        self.importer = VertexImportCheck() if self.vertex else None
        self.generation_config: dict[str, Any] = {}
        self.embed: dict[str, Any] = {}
        try:
            self._prepare()
        except RowProblem as problem:
            raise ConfigurationError(f"These settings cannot be applied to the rows: {problem}.") from None
        except RecursionError:
            raise ConfigurationError(f"These settings cannot be applied to the rows: {_TOO_DEEP}.") from None
        self.common = CommonRows(settings, self._sample)

    def _prepare(self) -> None:
        settings = self.settings
        embed = {
            name: value
            for name, value in zip(
                _EMBED_SETTINGS, (settings.task_type, settings.title, settings.output_dimensionality), strict=True
            )
            if value is not None
        }
        if settings.kind == "generate":
            if embed:
                raise RowProblem(f"{', '.join(map(_snake, embed))} belong to embedding jobs, and this one generates")
            if settings.generation_config is not None:
                self.generation_config = _generation_config(settings.generation_config, "generation_config")
            if settings.system_instruction is not None:
                self.system_instruction = _instruction(settings.system_instruction, "system_instruction")
            if self.vertex:
                self.generation_config = clean_for_import(self.generation_config)
            return
        if settings.generation_config or settings.system_instruction:
            raise RowProblem("generation_config and system_instruction belong to generation jobs, and this one embeds")
        _check_embed_settings(embed)
        if settings.is_legacy_embedding and embed:
            raise RowProblem(
                f"{', '.join(map(_snake, embed))} cannot be set in batches of {settings.model}, whose rows "
                "are text alone; "
                "use a gemini-embedding model"
            )
        self.embed = embed

    def read(self, row: bytes | str | Mapping[str, Any], line: int, number: int) -> WireRow:
        """Return the row in wire form; :raises _RowFault: with what is known of its key."""
        key = None
        try:
            if isinstance(row, Mapping):
                raw: bytes | None = None
                value: Any = row
            else:
                raw = row.encode() if isinstance(row, str) else row
                value = _parse(raw)
            key, request, metadata = self._checked(value, number, may_be_snake=raw is None or b"_" in raw)
            result = self._wire(key, line, request, metadata)
            self._take_key(key)
            return result
        except RowProblem as problem:
            raise _RowFault(str(problem), key) from None
        except (UnicodeError, TypeError, ValueError) as fault:
            # What JSON cannot hold: a lone surrogate in a string, an object of some class in a dict.
            raise _RowFault(f"cannot be written as JSON ({fault})", key) from None
        except RecursionError:
            raise _RowFault(_TOO_DEEP, key) from None

    def _checked(
        self, value: Any, number: int, *, may_be_snake: bool
    ) -> tuple[str, dict[str, Any], Mapping[str, Any] | None]:
        """Return key, request and metadata of a row of any form, checked and complete."""
        if not isinstance(value, Mapping):
            raise RowProblem(f"a row must be a JSON object, not {_kind(value)}")
        metadata = value.get("metadata")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise RowProblem(f"'metadata' must be an object, not {_kind(metadata)}")
        key = _key(value, metadata, number)
        try:
            request = self._split(value)
            if may_be_snake:
                request = camelise(request)
            return key, self._embed(request) if self.is_embedding else self._generate(request), metadata
        except RowProblem as problem:
            raise _RowFault(str(problem), key) from None

    def _sample(self, row: Mapping[str, Any], line: int) -> tuple[dict[str, Any], bytes] | None:
        """Return a row's request as the long way makes it, and its bytes; None if it is refused."""
        try:
            _, request, _ = self._checked(row, line, may_be_snake=True)
            return request, self._wire("", line, request, None).body()
        except (RowProblem, _RowFault):
            return None

    def _take_key(self, key: str) -> None:
        if key.startswith(KEY_PREFIX):
            raise RowProblem(f"'key' begins with {KEY_PREFIX!r}, which is our own mark and not given back; rename it")
        if not self.keys.add(key):
            raise RowProblem(_REPEATED)

    def _split(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Tell the forms apart and return the request."""
        embed = self.is_embedding
        members = {name: value for name, value in row.items() if name not in ("key", "metadata")}
        if "finish_reason" in members and "status" in members:
            raise RowProblem("is a result row, not an input row; take the row with its key from the input")
        if "config" in members:
            raise RowProblem(
                "'config' is a form of Google's SDK that the service ignores in files; put its members into "
                + ("'request' (taskType, title, outputDimensionality)" if embed else "'request.generationConfig'")
            )
        if "request" in members:
            request = members.pop("request")
            if members:
                raise RowProblem(
                    f"unknown member{'s' if len(members) > 1 else ''} {_names(members)} beside 'request'; a row "
                    "has 'key', "
                    "'request' and 'metadata'"
                )
            if not isinstance(request, Mapping):
                raise RowProblem(f"'request' must be an object, not {_kind(request)}")
            request = dict(request)
            if "config" in request:
                raise RowProblem(
                    "'config' is a form of Google's SDK; inside 'request' the service knows "
                    + ("taskType, title and outputDimensionality" if embed else "'generationConfig'")
                )
            return request
        short, wrong = ("text", "prompt") if embed else ("prompt", "text")
        body, wrong_body = ("content", "contents") if embed else ("contents", "content")
        if short in members:
            text = members.pop(short)
            if body in members:
                raise RowProblem(f"has both {short!r} and {body!r}; keep one")
            if not isinstance(text, str):
                raise RowProblem(f"{short!r} must be a string, not {_kind(text)}")
            if not text.strip():
                raise RowProblem(f"{short!r} is empty")
            content = {"role": "user", "parts": [{"text": text}]}
            if embed:
                del content["role"]
            members[body] = content if embed else [content]
        elif body not in members:
            if wrong in members or wrong_body in members:
                which = wrong if wrong in members else wrong_body
                raise RowProblem(
                    f"{which!r} makes this a row for {'generation' if embed else 'embeddings'}, and the job is one for "
                    f"{'embeddings' if embed else 'generation'}; write {short!r} or {body!r}, or use "
                    f"{'CreateBatchOperator' if embed else 'CreateEmbeddingBatchOperator'}"
                )
            raise RowProblem(
                f"has none of 'request', {body!r} and {short!r}"
                + (f"; it has {_names(members)}" if members else "; it is empty")
            )
        known = _EMBED_MEMBERS if embed else _GENERATE_MEMBERS
        strange = {name for name in members if camel(name) not in known}
        flat = {name for name in strange if camel(name) in _GENERATION_MEMBERS}
        if flat and not embed:
            raise RowProblem(f"{_names(flat)} must stand inside 'generationConfig'")
        if strange:
            raise RowProblem(f"unknown member{'s' if len(strange) > 1 else ''} {_names(strange)}")
        return members

    def _model(self, request: dict[str, Any]) -> None:
        model = request.get("model")
        if model is None:
            request.pop("model", None)
            return
        if not isinstance(model, str):
            raise RowProblem(f"'model' must be a string, not {_kind(model)}")
        own = model.rpartition("/")[2]
        job = self.settings.model.rpartition("/")[2]
        if job and own != job:
            raise RowProblem(f"asks for model {own!r}, but all rows of a job share one, and this job's is {job!r}")
        if self.vertex:
            del request["model"]

    def _generate(self, request: dict[str, Any]) -> dict[str, Any]:
        if "contents" not in request:
            if "content" in request:
                raise RowProblem(
                    "'content' makes this a row for embeddings, and the job is one for generation; write "
                    "'contents', or use "
                    "CreateEmbeddingBatchOperator"
                )
            raise RowProblem("'request' has no 'contents'")
        flat = [name for name in request if name in _GENERATION_MEMBERS]
        if flat:
            raise RowProblem(f"{_names(flat)} directly in 'request': must stand inside 'generationConfig'")
        if request.get("serviceTier") is not None:
            raise RowProblem("'serviceTier' cannot be set in a batch")
        self._model(request)
        contents = request["contents"]
        if not isinstance(contents, list) or not contents:
            raise RowProblem('\'contents\' must be a list with at least one {"role": "user", "parts": [...]}')
        request["contents"] = [
            _content(content, f"contents[{place}]", role=self.vertex) for place, content in enumerate(contents)
        ]
        config = request.get("generationConfig")
        own = _generation_config(config, "generationConfig") if config is not None else {}
        if own or self.generation_config or config is not None:
            request["generationConfig"] = {**self.generation_config, **own}
        instruction = request.get("systemInstruction")
        cached = request.get("cachedContent")
        if instruction is not None:
            request["systemInstruction"] = _instruction(instruction, "systemInstruction")
        elif self.system_instruction is not None:
            request["systemInstruction"] = self.system_instruction
        if cached is not None:
            self._cached(request)
        labels = request.get("labels")
        if self.vertex and isinstance(labels, Mapping):
            # A map of strings on the wire; a number beside a string is a mix of types to the importer.
            request["labels"] = {
                name: value if isinstance(value, str) or value is None else _encode(value).decode()
                for name, value in labels.items()
            }
        return request

    def _cached(self, request: dict[str, Any]) -> None:
        if self.vertex:
            raise RowProblem("'cachedContent' is not supported in batches on Vertex AI; put the content into the row")
        if not isinstance(request["cachedContent"], str) or not request["cachedContent"]:
            raise RowProblem("'cachedContent' must be the name of a cached content, as cachedContents/...")
        clash = [name for name in ("systemInstruction", "tools", "toolConfig") if request.get(name) is not None]
        if clash:
            ours = " (set for all rows)" if "systemInstruction" in clash and self.system_instruction else ""
            raise RowProblem(
                f"'cachedContent' cannot go with {_names(clash)}{ours}; they must be part of the cached content itself"
            )

    def _embed(self, request: dict[str, Any]) -> dict[str, Any]:
        if "content" not in request:
            if "contents" in request:
                raise RowProblem(
                    "'contents' makes this a row for generation, and the job is one for embeddings; write "
                    "'content', or use "
                    "CreateBatchOperator"
                )
            raise RowProblem("'request' has no 'content'")
        self._model(request)
        content = request["content"]
        if isinstance(content, str):
            if not content.strip():
                raise RowProblem("'content' is empty")
            content = {"parts": [{"text": content}]}
        content = _content(content, "content", role=False)
        config = request.pop("embedContentConfig", None)
        if config is not None and not isinstance(config, Mapping):
            raise RowProblem(f"'embedContentConfig' must be an object, not {_kind(config)}")
        own = {name: value for name, value in (config or {}).items() if value is not None}
        own |= {name: request.pop(name) for name in _EMBED_SETTINGS if request.get(name) is not None}
        _check_embed_settings(own)
        if self.settings.is_legacy_embedding:
            return self._legacy(content, own)
        settings = {**self.embed, **own}
        rest = {name: value for name, value in request.items() if name not in ("content", *_EMBED_SETTINGS)}
        if self.vertex:
            out = {"content": content, **rest}
            if settings:
                # Spelt as Google's page on embedding batches spells it; the other names have no second spelling there.
                out["embed_content_config"] = {_snake(name): value for name, value in settings.items()}
            return out
        flat = {name: value for name, value in settings.items() if name in _EMBED_SETTINGS}
        further = {name: value for name, value in settings.items() if name not in _EMBED_SETTINGS}
        return {"content": content, **rest, **flat, **({"embedContentConfig": further} if further else {})}

    def _legacy(self, content: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        parts = content["parts"]
        if len(parts) != 1 or set(parts[0]) != {"text"}:
            raise RowProblem(f"{self.settings.model} takes one text a row, nothing else")
        if own:
            raise RowProblem(
                f"{_names(own)} cannot be set in batches of {self.settings.model}, whose rows are text alone"
            )
        return {"content": parts[0]["text"]}

    def _wire(self, key: str, line: int, request: dict[str, Any], metadata: Mapping[str, Any] | None) -> WireRow:
        if self.importer is None:
            return WireRow(key, line, _line(key, _encode(request), False), metadata)
        if self.settings.is_legacy_embedding:
            row = {"key": KEY_PREFIX + key, **request}
            self.importer.add(row, line)
            return WireRow(key, line, _encode(row) + b"\n", metadata, _encode(request))
        request = clean_for_import(request)
        self.importer.add({"key": key, "request": request}, line)
        return WireRow(key, line, _line(key, _encode(request), True), metadata)


class _RowFault(Exception):
    def __init__(self, text: str, key: str | None) -> None:
        super().__init__(text)
        self.key = key


def normalise_rows(rows: Iterable[bytes | str | Mapping[str, Any]], settings: RowSettings) -> Iterator[WireRow]:
    """
    Check rows and bring them to the form of *settings*' backend, one at a time.

    Blank lines, CRLF and a byte order mark are tolerated and never passed on. A row without a key gets
    ``row-<number>``, counted from 1 over the rows that are not blank.

    :param rows: Lines of a file (with or without their newline), or dicts.
    :return: Rows in input order. After the first bad row nothing more is yielded: the rest is read to name up to ten
        bad rows at once.
    :raises ConfigurationError: If rows or settings cannot work, if there are none, or too many for one job.
    """
    for found in normalise_blocks(rows, settings):
        if isinstance(found, WireRow):
            yield found
        else:
            for key, number, line in found.rows():
                yield WireRow(key, number, line)


def normalise_blocks(
    rows: Iterable[bytes | str | Mapping[str, Any]], settings: RowSettings
) -> Iterator[CommonBlock | WireRow]:
    """Do what :func:`normalise_rows` does, with common rows in blocks; settings that cannot work are told at once."""
    return _normalise(rows, _Normaliser(settings))


def _normalise(
    rows: Iterable[bytes | str | Mapping[str, Any]], normaliser: _Normaliser
) -> Iterator[CommonBlock | WireRow]:
    limit = normaliser.settings.max_rows
    faults: list[str] = []
    number = 0
    line = 0

    def read(lines: list[bytes]) -> CommonBlock | None:
        return normaliser.common.read(lines, line + 1)

    for block, common in read_in_blocks(rows, read):
        line += len(block)
        row = block[0]
        if common is None and isinstance(row, (bytes, str)):
            row = row.strip()
            if line == 1:
                row = _without_mark(row)
            if not row:
                continue
        number += len(block)
        if limit is not None and number > limit:
            raise ConfigurationError(
                f"Vertex AI takes up to {limit:,} rows in one such job, and there are more; split them over "
                "several jobs, "
                "e.g. with dynamic task mapping."
            )
        wire: CommonBlock | WireRow | None = common
        if common is not None:
            faults += [
                _fault("line", common.first + place, common.keys[place], _REPEATED)
                for place in normaliser.keys.add_all(common.keys)
            ]
        else:
            try:
                wire = normaliser.read(row, line, number)
            except _RowFault as fault:
                faults.append(_fault("line" if isinstance(row, (bytes, str)) else "row", line, fault.key, fault))
        if len(faults) >= MAX_BAD_ROWS:
            break
        if wire is not None and not faults:
            yield wire
    if faults:
        more = "; more may follow" if len(faults) >= MAX_BAD_ROWS else ""
        faults = faults[:MAX_BAD_ROWS]
        head = f"{len(faults)} input rows cannot be submitted{more}:\n" if len(faults) > 1 else ""
        raise ConfigurationError(head + "\n".join(faults))
    if not number:
        raise ConfigurationError("There are no input rows: the input is empty or holds blank lines alone.")


def naming(source: object, items: Iterable[T]) -> Iterator[T]:
    """Yield what is read from *source*, and put its name before what is said of its rows."""
    try:
        yield from items
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from None


def _fault(what: str, line: int, key: str | None, problem: object) -> str:
    known = f" (key {_short(key)})" if key is not None else ""
    return f"{what} {line}{known}: {problem}"


def row_keys(rows: Iterable[bytes | str | Mapping[str, Any]]) -> Iterator[str]:
    """
    Yield the key of every row in order, with the rules of :func:`normalise_rows`, without checking anything else.

    :raises ConfigurationError: If a line is no JSON object or its key no string.
    """
    number = 0
    line = 0
    for block, keys in read_in_blocks(rows, _keys_of_common):
        line += len(block)
        if keys is not None:
            number += len(block)
            yield from keys
            continue
        row = block[0]
        if isinstance(row, Mapping):
            number += 1
            try:
                metadata = row.get("metadata")
                yield _key(row, metadata if isinstance(metadata, Mapping) else None, number)
            except RowProblem as problem:
                raise ConfigurationError(f"row {line}: {problem}") from None
            continue
        text = row.strip()
        if line == 1:
            text = _without_mark(text)
        if not text:
            continue
        number += 1
        key = _key_of_line(text, line, number)
        yield f"row-{number}" if key is None else key


def _keys_of_common(lines: list[bytes]) -> list[str] | None:
    """Return the keys of lines that all have theirs at its place, or None."""
    try:
        keys = [row.key for row in map(_key_row, lines)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None  # something is blank, has a mark before it, or is wrong
    return None if None in keys else keys  # type: ignore[return-value]


def _key_of_line(text: bytes | str, line: int, number: int) -> str | None:
    try:
        found = _key_row(text)
        return found.key if found.key is not None else found.metadata.key if found.metadata is not None else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        value = _parse(text.encode() if isinstance(text, str) else text)
        if not isinstance(value, dict):
            raise RowProblem(f"a row must be a JSON object, not {_kind(value)}")
        metadata = value.get("metadata")
        return _key(value, metadata if isinstance(metadata, dict) else None, number)
    except RowProblem as problem:
        raise ConfigurationError(f"line {line}: {problem}") from None


def _line(key: str, request: bytes, vertex: bool) -> bytes:
    return b'{"key":%b,"request":%b}\n' % (_encode(KEY_PREFIX + key if vertex else key), request)


def _without_mark(text: Any) -> Any:
    if isinstance(text, bytes):
        return text.removeprefix(b"\xef\xbb\xbf").strip()
    return text.removeprefix("\ufeff").strip()


def _parse(raw: bytes) -> Any:
    try:
        return _decode(raw)
    except RecursionError:
        raise RowProblem(_TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeError) as fault:
        text = str(fault).removeprefix("JSON is malformed: ")
        byte = re.search(r"\s*\(byte (\d+)\)", text)
        if byte is None:
            where = f"column {len(raw) + 1}, the line's end" if "truncated" in text else "somewhere in the line"
        else:
            place = int(byte[1])
            where = f"column {len(raw[:place].decode('utf-8', 'replace')) + 1}"
            text = text.replace(byte[0], "")
        raise RowProblem(f"not JSON at {where}: {text}") from None


def _key(row: Mapping[str, Any], metadata: Mapping[str, Any] | None, number: int) -> str:
    key = row.get("key")
    inner = metadata.get("key") if metadata is not None else None
    if key is not None and inner is not None and key != inner:
        raise RowProblem(f"'key' is {_short(key)}, but 'metadata.key' is {_short(inner)}; keep one")
    key = inner if key is None else key
    if key is None:
        return f"row-{number}"
    if not isinstance(key, str):
        raise RowProblem(f"'key' must be a string, not {_kind(key)}; write it in quotes")
    if not key:
        raise RowProblem("'key' is empty; leave it out to get one from the row's number")
    if len(key) > MAX_KEY_LENGTH:
        raise RowProblem(f"'key' is longer than {MAX_KEY_LENGTH} characters")
    return key


def _content(content: Any, where: str, *, role: bool) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise RowProblem(f'{where} must be an object {{"parts": [{{"text": "..."}}]}}, not {_kind(content)}')
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise RowProblem(f"{where} has no parts" if not parts else f"{where}.parts must be a list, not {_kind(parts)}")
    useful = False
    for place, part in enumerate(parts):
        if not isinstance(part, Mapping):
            raise RowProblem(f'{where}.parts[{place}] must be an object {{"text": "..."}}, not {_kind(part)}')
        text = part.get("text")
        if text is None:
            if not any(member is not None for member in part.values()):
                raise RowProblem(f"{where}.parts[{place}] is empty")
            useful = True
        elif not isinstance(text, str):
            raise RowProblem(f"{where}.parts[{place}].text must be a string, not {_kind(text)}")
        elif not text and not any(name != "text" for name in part):
            raise RowProblem(f"{where}.parts[{place}].text is empty")
        elif not useful:
            useful = bool(text.strip()) or len(part) > 1
    if not useful:
        raise RowProblem(f"{where} holds nothing but white space")
    own = content.get("role")
    if own is not None and own not in ("user", "model", "function", "tool"):
        hint = {"system": "use 'systemInstruction'", "assistant": "write 'model'"}.get(
            own if isinstance(own, str) else ""
        )
        raise RowProblem(f"{where}.role is {_short(own)}; {hint or 'write user or model'}")
    if own is None and role:
        return {"role": "user", **{name: value for name, value in content.items() if name != "role"}}
    return content


def _instruction(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str):
        if not value.strip():
            raise RowProblem(f"{where} is empty")
        return {"role": "user", "parts": [{"text": value}]}
    if not isinstance(value, Mapping):
        raise RowProblem(f"{where} must be a text or an object with parts, not {_kind(value)}")
    value = camelise(value)
    parts = value.get("parts")
    if not isinstance(parts, list) or not parts:
        raise RowProblem(f"{where} has no parts")
    for part in parts:
        if not isinstance(part, Mapping) or not part:
            raise RowProblem(f'{where}.parts must hold objects like {{"text": "..."}}')
    return dict(value)


def _generation_config(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RowProblem(f"{where} must be an object, not {_kind(value)}")
    config: dict[str, Any] = camelise(value)
    misplaced = [name for name in config if name in _GENERATE_MEMBERS]
    if misplaced:
        place = "directly in 'request'" if where == "generationConfig" else "in the rows, beside 'generationConfig'"
        if where != "generationConfig" and misplaced == ["systemInstruction"]:
            place = "in the argument system_instruction"
        raise RowProblem(f"{_names(misplaced)} in {where}: must stand {place}")
    return config


def unknown_members(generation_config: Mapping[str, Any]) -> dict[str, str | None]:
    """
    Return the members of a generation config that are not known here, each with the one that was meant, if that shows.

    A newer service may know them, so they are no error.
    """
    unknown = [name for name in generation_config if camel(name) not in _GENERATION_MEMBERS]
    return {name: next(iter(get_close_matches(camel(name), _GENERATION_MEMBERS, 1)), None) for name in unknown}


def _check_embed_settings(settings: Mapping[str, Any]) -> None:
    size = settings.get("outputDimensionality")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise RowProblem(f"outputDimensionality must be a whole number above 0, not {_short(size)}")
    for name in ("taskType", "title"):
        value = settings.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise RowProblem(f"{name} must be a text that is not empty, not {_short(value)}")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kind, name in (
        (str, "a string"),
        ((int, float), "a number"),
        ((list, tuple), "a list"),
        (Mapping, "an object"),
    ):
        if isinstance(value, kind):
            return name
    return type(value).__name__


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name if len(str(name)) <= 60 else str(name)[:57] + "...") for name in sorted(names, key=str))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
