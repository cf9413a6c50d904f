# SPDX-License-Identifier: Apache-2.0
"""One row -> one text: the Jinja template that a run renders for each row."""

# Rows are foreign data, so the environment is a sandbox, and an unknown name is an error instead of an empty text.
# `row` holds the columns and nothing else: a column called `items` is that column, never a method of a dict. What
# changes from attempt to attempt (`ti`, `now`, `try_number`) or is a secret (`conn`) has no name here: a prompt that
# differed on a retry would be paid for twice.
#
# A template of plain text and `{{ row.x }}` alone is rendered by joining strings; all others by Jinja.

from __future__ import annotations

import datetime
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from jinja2.sandbox import SandboxedEnvironment


class BadRowError(ConfigurationError):
    """One row cannot be asked; the others can."""


MAX_TEXT_BYTES = 20_000_000

VARIABLES = ("ds", "data_interval_start", "data_interval_end", "params", "run_id", "var")
"""Names that a template may use besides ``row``."""

CHANGING = ("ds", "data_interval_start", "data_interval_end", "run_id")
"""Names whose value differs in the next DAG run, so that no answer can be used again."""

_FORBIDDEN = ("ti", "task_instance", "ts", "now", "try_number", "conn", "macros", "dag_run")
_BRACED = re.compile(r"\{\s*(?:row\.)?([A-Za-z_][A-Za-z0-9_]*)\s*\}")
_SIMPLE = re.compile(r"\{\{-?\s*row\.([A-Za-z_][A-Za-z0-9_]*)\s*-?\}\}")
_SEPARATOR = re.compile(r"[;\t|]")


class Row:
    """A row as a template sees it: its columns as attributes and items, and nothing else."""

    __slots__ = ("_columns", "_values")

    def __init__(self, columns: Mapping[str, int], values: Sequence[Any]) -> None:
        # Past our own `__getattribute__`, to which every name without two underscores is a column.
        object.__setattr__(self, "_columns", columns)
        object.__setattr__(self, "_values", values)

    def __getattribute__(self, name: str) -> Any:
        # Python and Jinja need these (`__class__`, `__iter__`); the sandbox refuses them to a template.
        if name[:2] == "__":
            return object.__getattribute__(self, name)
        return _value_of(self, name)

    def __getitem__(self, name: str) -> Any:
        try:
            return _value_of(self, name)
        except AttributeError as fault:
            raise KeyError(str(fault)) from None

    def __iter__(self) -> Iterator[str]:
        columns: Mapping[str, int] = object.__getattribute__(self, "_columns")
        return iter(columns)

    def __contains__(self, name: object) -> bool:
        return name in object.__getattribute__(self, "_columns")


def _value_of(row: Row, name: str) -> Any:
    columns = object.__getattribute__(row, "_columns")
    if name not in columns:
        raise AttributeError(name)
    return object.__getattribute__(row, "_values")[columns[name]]


@dataclass(frozen=True)
class Template:
    """
    A template, compiled for known columns.

    :param used: Columns that it names, in the order of the columns.
    :param uses_whole_row: Whether it may read columns that it does not name (``row[name]``, ``for c in row``).
    :param changing: The names it uses whose value differs in the next DAG run.
    :param as_is: Columns that it shows, if it does nothing but show columns; else none.
    """

    used: tuple[str, ...]
    uses_whole_row: bool
    changing: tuple[str, ...]
    _render: Callable[[Sequence[Any]], str]
    as_is: Mapping[str, int]

    def check_filled(self, values: Sequence[Any], n: int, key: object = None) -> None:
        """
        Refuse a row of which the prompt would show nothing: it would be paid for, and the answer be about no row.

        A template with a condition, a filter or an ``or`` says itself what null means, and is not judged.

        :raises BadRowError: Naming row, key and columns.
        """
        for place in self.as_is.values():
            if values[place] is not None:
                return
        if self.as_is:
            one = next(iter(self.as_is))
            which = f"the column {one} is" if len(self.as_is) == 1 else f"the columns {_listed([*self.as_is])} are all"
            raise BadRowError(
                f"{_place(n, key)}: {which} null, so the prompt would ask about nothing. Leave such rows out of the "
                f"input, or say in the template what null means, e.g. {{{{ row.{one} or 'none given' }}}}."
            )

    def render(self, values: Sequence[Any], n: int, key: object = None) -> str:
        """
        Render one row.

        :param values: One for each column, in the order of the columns.
        :param n: Number of the row, from 0, for errors.
        :raises BadRowError: Naming row, key and column.
        """
        try:
            text = self._render(values)
        except Exception as fault:  # whatever an expression of the user raises
            told = f" (it uses {_listed(self.used)})" if self.used else ""
            raise BadRowError(f"{_place(n, key)}: the prompt's template fails{told}: {_reason(fault)}.") from None
        if len(text) > MAX_TEXT_BYTES // 4 and len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
            raise BadRowError(
                f"{_place(n, key)}: the prompt has more than {MAX_TEXT_BYTES:,} bytes; use fewer or shorter columns."
            )
        if not text or text.isspace():
            raise BadRowError(f"{_place(n, key)}: the prompt is empty; leave such rows out of the input.")
        return text


def compile_template(
    source: str, columns: Sequence[str], variables: Mapping[str, Any] | None = None, *, argument: str = "prompt"
) -> Template:
    """
    Compile a template.

    :param columns: Names of the input's columns, in order.
    :param variables: Values of :data:`VARIABLES`, as far as there are any.
    :param argument: Name of the argument, for errors.
    :raises ConfigurationError: If it is no template, or names a column or variable that does not exist.
    """
    import jinja2
    from jinja2 import meta

    if not isinstance(source, str) or not source.strip():
        raise ConfigurationError(f"{argument} must be a Jinja template, not {source!r}.")
    environment = _environment()
    known = {name: value for name, value in (variables or {}).items() if name in VARIABLES}
    try:
        tree = environment.parse(source)
        free = meta.find_undeclared_variables(tree)
    except jinja2.TemplateSyntaxError as fault:
        raise ConfigurationError(f"{argument}: line {fault.lineno}: {(fault.message or '').rstrip('.')}.") from None
    _check_variables(free, known, columns, argument)
    used, whole = _columns_of(tree)
    if strange := sorted(used - set(columns)):
        raise ConfigurationError(
            f"{argument} uses the column{'s' if len(strange) > 1 else ''} {', '.join(strange)}, which the input does "
            f"not have; it has {listed(columns)}."
        )
    if not used and not whole and (meant := _in_single_braces(source, columns)):
        raise ConfigurationError(
            f"{argument} shows no column: {{{meant}}} is a text like any other; write {{{{ row.{meant} }}}}."
        )
    indices = {name: place for place, name in enumerate(columns)}
    render = _joined(source, indices) or _by_jinja(environment.from_string(source), indices, known)
    changing = tuple(name for name in CHANGING if name in free)
    as_is = {name: indices[name] for name in columns if name in used} if _only_shows(tree) else {}
    return Template(tuple(name for name in columns if name in used), whole, changing, render, as_is)


def _in_single_braces(source: str, columns: Sequence[str]) -> str | None:
    """Return a column that a template without any names as Python's ``format`` would."""
    return next((name for name in _BRACED.findall(source) if name in columns), None)


def _check_variables(free: set[str], known: Mapping[str, Any], columns: Sequence[str], argument: str) -> None:
    unknown = sorted(free - set(known) - {"row"})
    if not unknown:
        return
    name = unknown[0]
    if name in columns:
        way_out = f"write {{{{ row.{name} }}}}"
    elif name in VARIABLES:
        way_out = "it has no value here"
    elif name in _FORBIDDEN:
        way_out = "it differs between attempts or is a secret, so a prompt may not use it"
    else:
        way_out = f"a prompt may use row, {', '.join(VARIABLES)}"
    raise ConfigurationError(f"{argument} uses {name!r}: {way_out}.")


def _columns_of(tree: Any) -> tuple[set[str], bool]:
    """Return the columns that a template names, and whether it uses the row in any other way."""
    from jinja2 import nodes

    used: set[str] = set()
    named = 0
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        if not (isinstance(node.node, nodes.Name) and node.node.name == "row"):
            continue
        if isinstance(node, nodes.Getattr):
            used.add(node.attr)
            named += 1
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            used.add(node.arg.value)
            named += 1
    rows = sum(1 for node in tree.find_all(nodes.Name) if node.name == "row" and node.ctx == "load")
    return used, rows > named


def _only_shows(tree: Any) -> bool:
    """Return whether a template is text, columns and variables, and nothing is done with any of them."""
    from jinja2 import nodes

    shown = [part for node in tree.body for part in (node.nodes if isinstance(node, nodes.Output) else [node])]
    return all(isinstance(part, (nodes.TemplateData, nodes.Name)) or _is_column(part) for part in shown)


def _is_column(node: Any) -> bool:
    from jinja2 import nodes

    if not (isinstance(node, (nodes.Getattr, nodes.Getitem)) and isinstance(node.node, nodes.Name)):
        return False
    return node.node.name == "row" and (isinstance(node, nodes.Getattr) or isinstance(node.arg, nodes.Const))


def _environment() -> SandboxedEnvironment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=as_text
    )
    # Two calls of these give two texts.
    environment.filters.pop("random", None)
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    return environment


def as_text(value: Any) -> Any:
    """Return a value as a prompt shows it: null as empty text, times as ISO 8601 in UTC, numbers as Python prints."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return (value.astimezone(datetime.UTC) if value.tzinfo is not None else value).isoformat()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no value that a text can say; make it null in the query, and say what null means")
    if isinstance(value, (bytes, bytearray)):
        raise ValueError("a binary column cannot be part of a text; leave it out or decode it in the query")
    return value


def _joined(source: str, indices: Mapping[str, int]) -> Callable[[Sequence[Any]], str] | None:
    """Return a renderer of plain text and ``{{ row.x }}``, or None for any other template."""
    pieces = _SIMPLE.split(source)
    texts = pieces[::2]
    # A dash strips white space and a carriage return is normalised, which is Jinja's business.
    if any("{" in text or "}" in text for text in texts) or "{{-" in source or "-}}" in source or "\r" in source:
        return None
    columns = [indices[name] for name in pieces[1::2]]
    parts = list(zip(columns, texts[1:], strict=True))
    first = texts[0]

    def render(values: Sequence[Any]) -> str:
        found = [first]
        for column, text in parts:
            value = values[column]
            found.append(value if type(value) is str else str(as_text(value)))
            found.append(text)
        return "".join(found)

    return render


def _by_jinja(
    template: Any, indices: Mapping[str, int], variables: Mapping[str, Any]
) -> Callable[[Sequence[Any]], str]:
    def render(values: Sequence[Any]) -> str:
        text: str = template.render({**variables, "row": Row(indices, values)})
        return text

    return render


def _place(n: int, key: object) -> str:
    return f"row {n + 1}" + (f" (key {key!r})" if key is not None else "")


def _reason(fault: Exception) -> str:
    text = " ".join(str(fault).split()) or type(fault).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def listed(names: Sequence[str]) -> str:
    """Return which columns an input has, for an error; of one that looks like several, how they are read."""
    if len(names) == 1 and (found := _SEPARATOR.search(names[0])):
        mark = found[0]
        way = "input_format='tsv'" if mark == "\t" else f"sql, as in SELECT * FROM read_csv('...', delim='{mark}')"
        return f"{names[0]!r} alone: where {mark!r} separates columns, give {way}"
    return _listed(names)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name if name == name.strip() else repr(name) for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"
