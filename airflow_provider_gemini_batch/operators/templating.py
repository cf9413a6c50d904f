# SPDX-License-Identifier: Apache-2.0
"""
Templates in arguments: what Airflow renders, and what it must leave alone.

Airflow sends every text of a template field through Jinja, at any depth. That spoils data: a prompt with ``{# note #}``
loses it, ``{{ 7*7 }}`` becomes 49, ``{{ var.value.X }}`` sends a Variable to Google, and with
``render_template_as_native_obj`` the text ``"1"`` becomes a number and ``'"quoted"'`` loses its quotes. So:

* Text without a template stays as it is, to the last newline.
* Rows are data. Only an ``XComArg`` in their place, or one template that stands for the whole list, is resolved::

      inlined_requests=make_rows.output
      inlined_requests="{{ ti.xcom_pull(task_ids='make_rows') }}"     the list itself, also without native rendering
      inlined_requests=[{"key": "a", "prompt": "{{ ds }}"}]           sent with its braces

* What is a text to us (a name, a path, an instruction, an entry of a list such as ``stop_sequences``) stays one under
  native rendering.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from jinja2 import Environment

_TEXTS = frozenset(
    {
        "bigquery_uri",
        "destination",
        "display_name",
        "display_name_prefix",
        "embed_task_type",
        "errors_path",
        "file_name",
        "filter",
        "gcs_uri",
        "gemini_batch_conn_id",
        "input_path",
        "job_name",
        "kind",
        "model",
        "output_conn_id",
        "output_path",
        "output_table",
        "sql_conn_id",
        "submission_salt",
        "system_instruction",
        "title",
    }
)
_TEXT_OBJECTS = ("labels", "webhook_config")
"""Objects whose members are texts, at any depth."""
_KEEP = "gemini_batch_keep_value"


class Templating:
    """Goes before Airflow's ``BaseOperator``; see above for the rules."""

    data_fields: ClassVar[tuple[str, ...]] = ("inlined_requests",)
    """Template fields whose content is data: never rendered, unless one template stands for all of it."""

    if TYPE_CHECKING:
        template_ext: Any
        get_template_env: Any

    def render_template(
        self, content: Any, context: Any, jinja_env: Environment | None = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render *content*, a template field's value or a part of it."""
        # By identity: Airflow hands over the value of a field without its name, and equal texts may stand in two
        # fields.
        is_data = any(content is getattr(self, name, None) for name in self.data_fields)
        is_text = any(content is getattr(self, name, None) for name in _TEXTS)
        if isinstance(content, os.PathLike):
            content = os.fspath(content)  # Airflow passes over the templates in a pathlib.Path
        if not isinstance(content, str):
            if is_data and not _is_reference(content):
                return self._resolved(content, context, jinja_env, seen_oids)
            if any(content is getattr(self, name, None) for name in _TEXT_OBJECTS) and not _is_reference(content):
                return self._texts(content, context, jinja_env, seen_oids)
            if type(content) is list:
                return [self._entry(entry, context, jinja_env, seen_oids) for entry in content]
            return super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]
        env = jinja_env or self.get_template_env()
        if not content.endswith(tuple(self.template_ext)):
            if not _has_template(content, env):
                return content
            if is_data and (expression := _only_expression(content, env)):
                return self._value_of(expression, context, env, seen_oids)
            if is_text:
                return _text_or_object(content, context, env)
        return super().render_template(content, context, env, seen_oids)  # type: ignore[misc]

    def _entry(self, entry: Any, context: Any, jinja_env: Environment | None, seen_oids: set[int] | None) -> Any:
        """Render an entry of a list: all lists that we take are of texts or of objects."""
        env = jinja_env or self.get_template_env()
        if type(entry) is str and not entry.endswith(tuple(self.template_ext)) and _has_template(entry, env):
            return _text_or_object(entry, context, env)
        return self.render_template(entry, context, env, seen_oids)

    def _texts(self, value: Any, context: Any, jinja_env: Environment | None, seen_oids: set[int] | None) -> Any:
        """Render an object of texts: each text in it stays one."""
        if isinstance(value, Mapping):
            return {name: self._texts(member, context, jinja_env, seen_oids) for name, member in value.items()}
        if type(value) is list:
            return [self._texts(entry, context, jinja_env, seen_oids) for entry in value]
        return self._entry(value, context, jinja_env, seen_oids)

    def _resolved(self, value: Any, context: Any, env: Environment | None, seen_oids: set[int] | None) -> Any:
        """Return data with what upstream tasks return in the places where it is referred to."""
        if _is_reference(value):
            return super().render_template(value, context, env, seen_oids)  # type: ignore[misc]
        if isinstance(value, (list, tuple)):
            return [self._resolved(entry, context, env, seen_oids) for entry in value]
        if isinstance(value, dict):
            return {name: self._resolved(member, context, env, seen_oids) for name, member in value.items()}
        return value

    def _value_of(self, expression: str, context: Any, env: Environment, seen_oids: set[int] | None) -> Any:
        """Return what an expression stands for, where rendering would make a text of it."""
        import jinja2

        kept: list[Any] = []

        def keep(*values: Any) -> str:
            kept.extend(values)
            return ""

        start, end = env.variable_start_string, env.variable_end_string
        # Jinja makes text of whatever an expression gives. A function that keeps its argument gets hold of the object
        # before.
        template = env.from_string(f"{start} {_KEEP}({expression}) {end}", globals={_KEEP: keep})
        _render(template, context)
        value = kept[0] if len(kept) == 1 else kept
        return str(value) if isinstance(value, jinja2.Undefined) else value


def _is_reference(value: Any) -> bool:
    """Say whether a value stands for what another task returns, or for a parameter of the DAG."""
    return not isinstance(value, os.PathLike) and callable(getattr(value, "resolve", None))


def _has_template(text: str, env: Environment) -> bool:
    signs = (env.variable_start_string, env.block_start_string, env.comment_start_string)
    prefixes = (env.line_statement_prefix, env.line_comment_prefix)
    return any(sign and sign in text for sign in (*signs, *prefixes))


def _only_expression(text: str, env: Environment) -> str:
    """Return the expression of a text that holds one and nothing else, or an empty string."""
    import jinja2

    text = text.strip()
    try:
        body = env.parse(text).body
    except jinja2.TemplateSyntaxError:
        return ""  # rendering words what is wrong
    if len(body) != 1 or not isinstance(body[0], jinja2.nodes.Output) or len(body[0].nodes) != 1:
        return ""
    start, end = env.variable_start_string, env.variable_end_string
    if isinstance(body[0].nodes[0], jinja2.nodes.TemplateData) or not (text.startswith(start) and text.endswith(end)):
        return ""
    return text.removeprefix(start).removesuffix(end).strip("-+ \t\n")


def _text_or_object(text: str, context: Any, env: Environment) -> Any:
    """Render a text as a text, also where the DAG renders native objects; one object alone stays itself."""
    found = list(_render(env.from_string(text), context))
    # A native environment would also make a number of "1" and a list of "[1]": only what was an object before stays
    # one.
    if len(found) == 1 and (found[0] is None or isinstance(found[0], (Mapping, list, tuple))):
        return found[0]
    return "".join(map(str, found))


def _render(template: Any, context: Any) -> list[Any]:
    """Return the pieces that a template makes, as Airflow renders it: with its environment's globals at the end."""
    env = template.environment
    context = copy.copy(context)
    context.update((name, value) for name, value in template.globals.items() if name not in context)
    try:
        return list(template.root_render_func(env.context_class(env, context, template.name, template.blocks)))
    except Exception:
        env.handle_exception()  # names the template in the traceback
        raise
