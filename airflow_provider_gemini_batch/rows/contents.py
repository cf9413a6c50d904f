# SPDX-License-Identifier: Apache-2.0
"""Contents, instructions and generation settings of one row: what can be known to fail before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_gemini_batch.rows.casing import to_wire
from airflow_provider_gemini_batch.rows.messages import GENERATE_MEMBERS, camel
from airflow_provider_gemini_batch.rows.problems import RowProblem, kind_of, listed, shown

_ROLES = ("user", "model", "function", "tool")
_MEANT_BY_ROLE = {"system": "use 'systemInstruction'", "assistant": "write 'model'"}


def check_content(content: Any, where: str, *, add_role: bool) -> Mapping[str, Any]:
    """
    Return a content whose parts hold something, with a role where the backend wants one.

    :param where: Its place in the row, for messages.
    """
    if not isinstance(content, Mapping):
        raise RowProblem(f'{where} must be an object {{"parts": [{{"text": "..."}}]}}, not {kind_of(content)}')
    parts = content.get("parts")
    if not parts:
        raise RowProblem(f"{where} has no parts")
    if not isinstance(parts, list):
        raise RowProblem(f'{where}.parts must be a list, as [{{"text": "..."}}], not {kind_of(parts)}')
    # A list, so that every part is checked.
    if not any([_holds_something(part, f"{where}.parts[{place}]") for place, part in enumerate(parts)]):  # noqa: C419
        raise RowProblem(f"{where} holds nothing but white space")
    role = content.get("role")
    if role is not None and role not in _ROLES:
        meant = _MEANT_BY_ROLE.get(role) if isinstance(role, str) else None
        raise RowProblem(f"{where}.role is {shown(role)}", meant or "write user or model")
    if role is None and add_role:
        return {"role": "user", **{name: value for name, value in content.items() if name != "role"}}
    return content


def _holds_something(part: Any, where: str) -> bool:
    if not isinstance(part, Mapping):
        raise RowProblem(f'{where} must be an object {{"text": "..."}}, not {kind_of(part)}')
    text = part.get("text")
    if text is None:
        if all(member is None for member in part.values()):
            raise RowProblem(f"{where} is empty")
        return True
    if not isinstance(text, str):
        raise RowProblem(f"{where}.text must be a string, not {kind_of(text)}")
    if not text and not any(name != "text" for name in part):
        raise RowProblem(f"{where}.text is empty")
    return len(part) > 1 or bool(text.strip())


def read_instruction(value: Any, where: str) -> dict[str, Any]:
    """Return a system instruction, a text or a content, as a content."""
    if isinstance(value, str):
        if not value.strip():
            raise RowProblem(f"{where} is empty")
        return {"role": "user", "parts": [{"text": value}]}
    if not isinstance(value, Mapping):
        raise RowProblem(f"{where} must be a text or an object with parts, not {kind_of(value)}")
    content = to_wire(value, "Content")
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise RowProblem(f"{where} has no parts")
    for part in parts:
        if not isinstance(part, Mapping) or not part:
            raise RowProblem(f'{where}.parts must hold objects like {{"text": "..."}}')
    return content


def read_generation_config(value: Any, where: str, unknown: set[tuple[str, str]] | None = None) -> dict[str, Any]:
    """
    Return generation settings as the service spells them.

    :param where: The argument's name, for messages.
    """
    if not isinstance(value, Mapping):
        raise RowProblem(f"{where} must be an object, not {kind_of(value)}")
    config = to_wire(value, "GenerationConfig", unknown)
    if misplaced := _of_the_request(config):
        is_instruction = misplaced == ["systemInstruction"]
        place = "in the argument system_instruction" if is_instruction else "in the rows, beside 'generationConfig'"
        raise RowProblem(f"{listed(misplaced)} in {where}: must stand {place}")
    return config


def check_generation_config(config: Any) -> None:
    """Check a row's own generation settings, which are spelt as the service does already."""
    if not isinstance(config, Mapping):
        raise RowProblem(f"generationConfig must be an object, not {kind_of(config)}")
    if misplaced := _of_the_request(config):
        raise RowProblem(f"{listed(misplaced)} in generationConfig: must stand directly in 'request'")


def _of_the_request(config: Mapping[str, Any]) -> list[str]:
    return [new for name in config if (new := camel(name)) in GENERATE_MEMBERS]
