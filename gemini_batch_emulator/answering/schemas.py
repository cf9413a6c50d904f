# SPDX-License-Identifier: Apache-2.0
"""Values that fit a response schema, drawn from the prompt."""

# `maker_of` compiles a schema once into functions, one for each node; a row then costs a few calls. Both forms are
# read: `responseSchema` (OpenAPI's subset: `OBJECT`, `nullable`, `anyOf`, `propertyOrdering`, `format: enum`) and
# `responseJsonSchema` (JSON Schema with `$defs`, `$ref`, `const`, `prefixItems`, type lists).
#
# Members come in the order of `propertyOrdering`, else in the schema's own, as the service writes them. A property that
# is not required is there in three answers of four; one that may be null is null in one of eight. Recursion ends at a
# depth of eight: from there on optional members are left out and lists are as short as they may be.
#
# Worked example: `{"type": "OBJECT", "properties": {"mood": {"enum": ["good", "bad"]}, "score": {"type": "INTEGER",
# "minimum": 1, "maximum": 5}}, "required": ["mood", "score"]}` gives `{"mood": "bad", "score": 4}` for one prompt and
# something else for another, always the same for the same one.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from gemini_batch_emulator.answering.draws import Draw

MAX_DEPTH = 8
_OPTIONAL_IN_FOUR = 3
_NULL_IN_EIGHT = 1
_DAY_ONE = datetime(2026, 1, 1, tzinfo=UTC)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Make = Callable[[Draw, str, int], Any]
"""Makes a node's value: numbers to draw from, the prompt's first words, the depth."""


class Maker:
    """
    Makes values for one schema, and breaks them.

    :param schema: As it stands in the request; None and empty fit anything.
    """

    def __init__(self, schema: Any) -> None:
        self._compiler = _Compiler(schema)
        self._schema = self._compiler.resolved(schema)
        try:
            self._make = self._compiler.node(schema)
        except (TypeError, ValueError, AttributeError):
            # The service answers something, too, where a schema makes no sense.
            self._make = _text({})

    def value(self, number: int, words: str) -> Any:
        """Return the value for the prompt with hash *number*; *words* fill free text."""
        return self._make(Draw(number), words, 0)

    def broken(self, value: Any, how: str) -> Any:
        """
        Return *value* changed so that it does not fit the schema.

        :param how: ``type`` (one member of another type), ``missing`` (a required member left out) or ``extra`` (text
            where an object is asked for).
        """
        properties = self._schema.get("properties") if isinstance(self._schema, Mapping) else None
        if not isinstance(value, dict) or not isinstance(properties, Mapping) or how == "extra":
            return {"unasked": value} if not isinstance(value, dict) else str(value)
        required = [name for name in self._schema.get("required") or () if name in value]
        if how == "missing" and required:
            return {name: inner for name, inner in value.items() if name != required[0]}
        for name in value:
            inner = properties.get(name)
            if self._compiler.is_definite(inner):
                is_object = _kind(self._compiler.resolved(inner)) == "object"
                return {**value, name: "neither nor" if is_object else {"unasked": True}}
        return str(value)


def maker_of(schema: Any) -> Maker:
    """Return a maker; for no schema one of the emulator's own, an object with the answer's words."""
    return Maker(schema or {"type": "object", "properties": {"answer": {}, "digest": {"type": "integer"}}})


class _Compiler:
    """Turns the nodes of one schema into functions."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._references: dict[str, Make] = {}

    def resolved(self, schema: Any) -> Any:
        """Follow a reference."""
        for _ in range(MAX_DEPTH):
            reference = schema.get("$ref") or schema.get("ref") if isinstance(schema, Mapping) else None
            if reference is None:
                break
            schema = self._target(str(reference))
        return schema

    def _target(self, reference: str) -> Any:
        node = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step and isinstance(node, Mapping):
                node = node.get(step.replace("~1", "/").replace("~0", "~"))
        if node is None and isinstance(self._root, Mapping):
            # Vertex AI's own form names a definition alone.
            node = (self._root.get("defs") or self._root.get("$defs") or {}).get(reference.rpartition("/")[2])
        return node if node is not None else {}

    def is_definite(self, schema: Any) -> bool:
        """Whether a value of another type is sure not to fit."""
        schema = self.resolved(schema)
        if not isinstance(schema, Mapping) or _options(schema):
            return False
        return isinstance(schema.get("type"), str) or bool(schema.get("enum")) or "const" in schema

    def node(self, schema: Any) -> Make:
        """Compile one node."""
        if not isinstance(schema, Mapping):
            return _text({})
        reference = schema.get("$ref") or schema.get("ref")
        if reference is not None:
            return self._reference(str(reference))
        make = self._plain(schema)
        is_nullable = schema.get("nullable") or (isinstance(schema.get("type"), list) and "null" in schema["type"])
        if not is_nullable:
            return make
        return lambda draw, words, depth: (
            None if depth > MAX_DEPTH or draw.below(8) < _NULL_IN_EIGHT else make(draw, words, depth)
        )

    def _reference(self, reference: str) -> Make:
        """A reference is compiled when it is first used: it may lead back to where it stands."""

        def make(draw: Draw, words: str, depth: int) -> Any:
            if depth > 8 * MAX_DEPTH:
                return None  # nothing but references to itself
            if reference not in self._references:
                self._references[reference] = self.node(self._target(reference))
            return self._references[reference](draw, words, depth + 1)

        return make

    def _plain(self, schema: Mapping[str, Any]) -> Make:
        if "const" in schema:
            constant = schema["const"]
            return lambda draw, words, depth: constant
        if schema.get("enum"):
            values = [value for value in schema["enum"] if value is not None] or [None]
            return lambda draw, words, depth: values[draw.below(len(values))]
        options = _options(schema)
        if options:
            return self._any_of(schema, options)
        if schema.get("allOf"):
            merged: dict[str, Any] = {name: value for name, value in schema.items() if name != "allOf"}
            for part in schema["allOf"]:
                merged = _merged(merged, self.resolved(part))
            return self.node(merged)
        kind = _kind(schema)
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "null":
            return lambda draw, words, depth: None
        return _SCALARS.get(kind, _text)(schema)

    def _any_of(self, schema: Mapping[str, Any], options: list[Any]) -> Make:
        base = {name: value for name, value in schema.items() if name not in ("anyOf", "any_of", "oneOf")}
        makes = [self.node(_merged(base, option) if base.get("properties") else option) for option in options]
        # The shallowest option ends a recursion: one without a reference, if there is one.
        plain = [
            make
            for make, option in zip(makes, options, strict=True)
            if isinstance(option, Mapping) and not (option.get("$ref") or option.get("ref"))
        ]
        end = (plain or makes)[0]
        return lambda draw, words, depth: (
            end(draw, words, depth) if depth > MAX_DEPTH else makes[draw.below(len(makes))](draw, words, depth)
        )

    def _object(self, schema: Mapping[str, Any]) -> Make:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        order = schema.get("propertyOrdering") or schema.get("property_ordering") or list(properties)
        names = [name for name in order if name in properties] + [name for name in properties if name not in order]
        # The service writes every property of a schema that requires none.
        required = set(schema.get("required") or names)
        makes = [(name, name in required, self.node(properties[name])) for name in names]
        extra = schema.get("additionalProperties")
        makes += [(name, True, self.node(extra)) for name in schema.get("required") or () if name not in properties]
        if not makes and isinstance(extra, Mapping):
            makes = [("first", True, self.node(extra))]

        def make(draw: Draw, words: str, depth: int) -> dict[str, Any]:
            return {
                name: inner(draw, words, depth + 1)
                for name, is_required, inner in makes
                if is_required or (depth <= MAX_DEPTH and draw.below(4) < _OPTIONAL_IN_FOUR)
            }

        return make

    def _array(self, schema: Mapping[str, Any]) -> Make:
        fixed = [self.node(item) for item in schema.get("prefixItems") or ()]
        items = schema.get("items")
        inner = self.node(items) if isinstance(items, Mapping) else None if fixed else _text({})
        least, span = _sizes(schema)
        is_unique = bool(schema.get("uniqueItems"))

        def make(draw: Draw, words: str, depth: int) -> list[Any]:
            found = [item(draw, words, depth + 1) for item in fixed]
            if inner is None:
                return found
            size = least if depth > MAX_DEPTH else max(least, 1 if span else 0) + (draw.below(span) if span > 1 else 0)
            for _ in range(max(0, size - len(found)) * (8 if is_unique else 1)):
                value = inner(draw, words, depth + 1)
                if not (is_unique and value in found) and len(found) < size:
                    found.append(value)
            return found

        return make


def _sizes(schema: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least size of a list, and how many sizes there are from there on: a few are enough."""
    least = int(_bound(schema, "minItems") or 0)
    most = _bound(schema, "maxItems")
    return least, (max(least, 1) if most is None else min(int(most), least + 2)) - least


def _merged(base: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """Two schemas that hold both: members of objects are united, the rest is the later one's."""
    merged = {**base, **part} if isinstance(part, Mapping) else dict(base)
    for name, empty in (("properties", {}), ("required", [])):
        both = [value for value in (base.get(name), part.get(name) if isinstance(part, Mapping) else None) if value]
        if len(both) == 2:
            merged[name] = {**both[0], **both[1]} if empty == {} else [*both[0], *both[1]]
    return merged


def _options(schema: Mapping[str, Any]) -> list[Any]:
    return list(schema.get("anyOf") or schema.get("any_of") or schema.get("oneOf") or ())


def _bound(schema: Mapping[str, Any], name: str) -> float | None:
    """A bound in either spelling; OpenAPI's form writes counts as strings, too."""
    value = schema.get(name)
    if value is None:
        value = schema.get({"minItems": "min_items", "maxItems": "max_items"}.get(name, ""))
    return None if value is None else float(value)


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        guesses = (("properties", "object"), ("items", "array"), ("prefixItems", "array"))
        kind = next((guess for name, guess in guesses if name in schema), "string")
    return str(kind).lower()


def _limits(schema: Mapping[str, Any], default: float, step: float) -> tuple[float, float]:
    low, high = _bound(schema, "minimum"), _bound(schema, "maximum")
    above, below = _bound(schema, "exclusiveMinimum"), _bound(schema, "exclusiveMaximum")
    low = above + step if low is None and above is not None else low
    high = below - step if high is None and below is not None else high
    if low is None:
        low = 0.0 if high is None or high >= 0 else high - default
    return low, max(low, low + default if high is None else high)


def _integer(schema: Mapping[str, Any]) -> Make:
    low, high = _limits(schema, 99, 1)
    step = int(_bound(schema, "multipleOf") or 1)
    first = -(-math.ceil(low) // step)
    count = max(1, math.floor(high) // step - first + 1)
    return lambda draw, words, depth: (first + draw.below(min(count, 1 << 30))) * step


def _number(schema: Mapping[str, Any]) -> Make:
    low, high = _limits(schema, 1, 0.01)
    return lambda draw, words, depth: min(high, max(low, round(low + (high - low) * draw.below(101) / 100, 6)))


def _boolean(schema: Mapping[str, Any]) -> Make:
    return lambda draw, words, depth: draw.below(2) == 0


def _text(schema: Mapping[str, Any]) -> Make:
    form = schema.get("format")
    # The service's own schema language has no format for dates, so that who wants one says it.
    if form == "date" or (form is None and "YYYY-MM-DD" in str(schema.get("description"))):
        return lambda draw, words, depth: (_DAY_ONE + timedelta(days=draw.below(365))).date().isoformat()
    if form in ("date-time", "time"):
        cut = 0 if form == "date-time" else 11
        return lambda draw, words, depth: (
            (_DAY_ONE + timedelta(minutes=draw.below(525_600))).isoformat()[cut:].replace("+00:00", "Z")
        )
    if form == "uuid":
        return lambda draw, words, depth: f"00000000-0000-4000-8000-{draw.below(1 << 31):012x}"
    if form == "email":
        return lambda draw, words, depth: f"{_LETTERS[draw.below(26)]}@example.com"
    if form in ("uri", "url"):
        return lambda draw, words, depth: f"https://example.com/{draw.below(1000)}"
    least, most = int(_bound(schema, "minLength") or 0), _bound(schema, "maxLength")
    if not least and most is None:
        return lambda draw, words, depth: words
    return lambda draw, words, depth: words.ljust(least, ".")[: None if most is None else int(most)]


_SCALARS: dict[str, Callable[[Mapping[str, Any]], Make]] = {
    "string": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}
