# SPDX-License-Identifier: Apache-2.0
"""Backends are not asked for their name: what differs is a member of ``Backend``, a rule of rows or a dated fact."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "airflow_provider_gemini_batch"
NAMES = {"gemini", "vertex_ai"}
CONSTANTS = {"GEMINI", "VERTEX_AI"}
CLASSES = {"DeveloperBackend", "VertexBackend"}
MAY_ASK = ("connection/", "api/backends.py")
"""A connection's fields mean other things for each backend; and its name has to become a class somewhere."""


def questions(source: str) -> Iterator[int]:
    """Yield the lines that branch on a backend's name or class."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            parts = node.args[1:]
        else:
            continue
        if any(map(_names_a_backend, (inner for part in parts for inner in ast.walk(part)))):
            yield node.lineno if not isinstance(node, ast.MatchValue) else node.value.lineno


def _names_a_backend(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return node.value in NAMES
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in CONSTANTS | CLASSES


def test_no_code_asks_which_backend_it_is(root: Path) -> None:
    found = [
        f"{name}:{line}"
        for path in sorted((root / PACKAGE).rglob("*.py"))
        if not (name := path.relative_to(root / PACKAGE).as_posix()).startswith(MAY_ASK)
        for line in questions(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        'if backend.name == "vertex_ai": pass',
        'if settings.backend not in ("gemini", other): pass',
        "x = VERTEX_AI != backend",
        "if settings.GEMINI is name: pass",
        "isinstance(backend, (DeveloperBackend, str))",
        'match backend.name:\n    case "gemini": pass',
    ],
)
def test_a_question_is_found(source: str) -> None:
    assert list(questions(source))


@pytest.mark.parametrize("source", ['RULES["gemini"]', "backend.has_labels", 'name: str = "vertex_ai"', "a == b"])
def test_an_answer_is_no_question(source: str) -> None:
    assert not list(questions(source))


def test_the_exempt_places_exist(root: Path) -> None:
    assert [name for name in MAY_ASK if not (root / PACKAGE / name).exists()] == []
