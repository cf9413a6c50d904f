# SPDX-License-Identifier: Apache-2.0
"""
Draws the connection form of Airflow 3.0 where Flask-AppBuilder is not installed.

That version makes a form of the hook's WTForms fields alone, and shows none where their library is missing, as it is in
an Airflow without the FAB provider; 3.1 puts stand-ins in its place, and later ones read the provider's metadata. So
inside the API server of 3.0 the same metadata is added to what its form is told of our type.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.connection.form import CONNECTION_TYPE, connection_fields, metadata_field_behaviour

if TYPE_CHECKING:
    from collections.abc import Iterator

_STANDARD_FIELDS = ("description", "url_schema", "host", "port", "login", "password")


class FormOfApiServer(list[Any]):
    """No apps at all: that the API server asks for them says that it is one, and only it draws forms."""

    def __iter__(self) -> Iterator[Any]:
        # What is completed is no public interface. Without it the form shows no fields, and JSON in "extra" does.
        with suppress(ImportError, AttributeError):
            add_form_without_library()
        return iter(())


def add_form_without_library() -> None:
    """Give the form our fields from now on in this process, where it has none; doing it twice changes nothing."""
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    told = HookMetaService.hook_meta_data
    if getattr(told, "with_gemini_batch", False):
        return

    @cache
    def hook_meta_data() -> Any:
        found = told()
        for meta in found:
            if meta.connection_type == CONNECTION_TYPE and not meta.extra_fields:
                _complete(meta)
        return found

    hook_meta_data.with_gemini_batch = True  # type: ignore[attr-defined]
    setattr(HookMetaService, "hook_meta_data", staticmethod(hook_meta_data))  # noqa: B010  (a method to mypy)


def _complete(meta: Any) -> None:
    from airflow.api_fastapi.core_api.datamodels.connections import ConnectionHookFieldBehavior, StandardHookFields
    from airflow.sdk import Param

    meta.extra_fields = {
        name: Param(
            default=field["schema"].get("default"),
            title=field["label"],
            description=field["description"],
            **{key: value for key, value in field["schema"].items() if key != "default"},
        ).dump()
        for name, field in connection_fields().items()
    }
    behaviour = metadata_field_behaviour()
    standard: dict[str, Any] = dict.fromkeys(_STANDARD_FIELDS)
    for name in _STANDARD_FIELDS:
        ours = name.removeprefix("url_")
        hidden = ours in behaviour["hidden-fields"]
        title, placeholder = behaviour["relabeling"].get(ours), behaviour["placeholders"].get(ours)
        if hidden or title or placeholder:
            standard[name] = ConnectionHookFieldBehavior(hidden=hidden, title=title, placeholder=placeholder)
    meta.standard_fields = StandardHookFields(**standard)
