# SPDX-License-Identifier: Apache-2.0
"""
Inputs of whole runs, and answers to them as the service writes them.

Three kinds: short rows whose answers follow a schema, rows of 4 kB with answers as long, and texts for vectors.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inputs import SENTENCE, write_lines

DIMENSIONS = 768
PROMPT = "Classify this product review:\n"
SCHEMA = {
    "type": "object",
    "properties": {
        "sentiment": {"type": "string", "enum": ["good", "bad", "mixed"]},
        "topics": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["sentiment", "topics"],
}
_LONG = (SENTENCE * 60)[:4000]
_CLASSES = ("good", "bad", "mixed")


@dataclass(frozen=True)
class Kind:
    """
    A kind of run.

    :param title: What its rows are.
    :param suffix: Of the input file.
    :param head: Its first line, or nothing.
    :param row: Makes the line of a row, from 0.
    :param answer: Makes the result line of a row.
    :param arguments: Of the run.
    :param rules: What the emulator answers.
    """

    title: str
    suffix: str
    head: str
    row: Callable[[int], str]
    answer: Callable[[int], str]
    arguments: Mapping[str, Any]
    rules: Sequence[Mapping[str, Any]] = ()

    def write_input(self, path: Path, rows: int) -> None:
        """Write the input file."""
        with path.open("w", encoding="ascii") as file:
            file.write(self.head)
        with path.open("a", encoding="ascii", buffering=1 << 20) as file:
            file.writelines(map(self.row, range(rows)))

    def write_answers(self, path: Path, rows: int) -> None:
        """Write a result line for each row, out of order as on Vertex AI: within blocks, for want of memory."""
        draw = random.Random(1)
        block = 10_000

        def order() -> list[int]:
            found = []
            for first in range(0, rows, block):
                numbers = list(range(first, min(first + block, rows)))
                draw.shuffle(numbers)
                found.append(numbers)
            return [n for numbers in found for n in numbers]

        places = iter(order())
        write_lines(path, lambda _: self.answer(next(places)), count=rows)


def _result(n: int, text: str) -> str:
    return (
        f'{{"key": "k{n}", "response": {{"candidates": [{{"content": {{"parts": [{{"text": {json.dumps(text)}}}], '
        '"role": "model"}, "finishReason": "STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 20, '
        '"candidatesTokenCount": 16, "totalTokenCount": 36}, "modelVersion": "gemini-3.5-flash-lite"}}\n'
    )


def _review(n: int) -> str:
    return f"k{n},the parcel number {n} came late and the box was wet,2026-01-{n % 28 + 1:02d}\n"


def _class(n: int) -> str:
    return _result(n, json.dumps({"sentiment": _CLASSES[n % 3], "topics": ["delivery", f"box {n % 1000}"]}))


def _vector(n: int) -> str:
    draw = random.Random(n)
    values = ",".join([f"{draw.uniform(-1, 1):.8f}" for _ in range(DIMENSIONS)])
    response = f'{{"embedding":{{"values":[{values}]}},"usageMetadata":{{"promptTokenCount":9}}}}'
    return f'{{"key":"k{n}","response":{response}}}\n'


KINDS: Mapping[str, Kind] = {
    "short": Kind(
        "short rows",
        ".csv",
        "id,review,day\n",
        _review,
        _class,
        {"kind": "generate", "prompt": PROMPT + "{{ row.review }}", "response_schema": SCHEMA},
    ),
    "long": Kind(
        "rows of 4 kB",
        ".jsonl",
        "",
        lambda n: f'{{"id":"k{n}","review":"{n} {_LONG}","day":"2026-01-01"}}\n',
        lambda n: _result(n, f"{n} {_LONG}"),
        {"kind": "generate", "prompt": PROMPT + "{{ row.review }}"},
        ({"outcome": "text", "text": _LONG},),
    ),
    "vectors": Kind(
        f"embeddings of {DIMENSIONS}",
        ".csv",
        "id,review,day\n",
        _review,
        _vector,
        {"kind": "embed", "text": "{{ row.review }}", "output_dimensionality": DIMENSIONS},
    ),
}
