# SPDX-License-Identifier: Apache-2.0
"""The fields of a ``gemini_batch`` connection: their names, labels and what the form says about them."""

# One table serves three readers: Airflow 3.2 and later read the provider's metadata, Airflow 2.11, 3.0 and 3.1 call two
# methods of the hook, and the messages about a bad connection use the form's own words.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONNECTION_TYPE = "gemini_batch"
DEFAULT_CONNECTION_ID = "gemini_batch_default"
HOOK_NAME = "Gemini Batch"


@dataclass(frozen=True)
class Field:
    """
    A field that is stored in the connection's extra.

    :param kind: ``text``, ``secret``, ``whole``, ``number`` or ``flag``.
    :param choices: The only values the form offers; with none, any.
    """

    label: str
    description: str
    kind: str = "text"
    choices: tuple[str, ...] = ()


EXTRA_FIELDS: dict[str, Field] = {
    "backend": Field(
        "Backend",
        "gemini (Developer API, wants the API key) or vertex_ai (wants a project). Empty: gemini when there is an API "
        "key, else vertex_ai.",
        choices=("", "gemini", "vertex_ai"),
    ),
    "project": Field("Project", "Vertex AI: the Google Cloud project. Empty: the one that the key names."),
    "location": Field("Location", "Vertex AI: a region such as us-central1, us, eu, or global. Empty: global."),
    "storage_uri": Field(
        "Storage place", "Vertex AI: gs://bucket/prefix for uploads and results when an operator names no place."
    ),
    "keyfile_dict": Field("Key JSON", "The content of a service account's key file.", "secret"),
    "key_path": Field("Key path", "Path of a service account's key file, on the workers and on the triggerer."),
    "credential_config_file": Field(
        "Credential configuration", "Workload identity federation: path or content of the configuration file."
    ),
    "impersonation_chain": Field(
        "Impersonation chain", "Service account to act as; or several, comma-separated, the last is acted as."
    ),
    "quota_project": Field("Quota project", "Project that quota and cost of the calls are counted for."),
    "scopes": Field("Scopes", "OAuth scopes, comma-separated. Empty: cloud-platform."),
    "api_version": Field("API version", "Empty: v1beta for the Developer API, v1 for Vertex AI."),
    "timeout": Field("Timeout", "Seconds for one HTTP call. Empty: 60.", "number"),
    "max_retries": Field("Tries", "Tries for a call that is safe to repeat. Empty: 5.", "whole"),
    "storage_host": Field(
        "Cloud Storage URL",
        "Base URL of Cloud Storage. Empty: Google's, or the base URL above if that is not Google's; behind a proxy of "
        "Vertex AI alone write https://storage.googleapis.com.",
    ),
    "bigquery_host": Field("BigQuery URL", "Base URL of BigQuery. Empty: as for the Cloud Storage URL."),
    "allow_http": Field("Allow plain HTTP", "Allow http:// to other machines; credentials are then readable.", "flag"),
    "is_anonymous": Field("Anonymous", "Send no credentials at all: for an emulator.", "flag"),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "Backend": ("backend",),
    "Vertex AI": ("project", "location", "storage_uri"),
    "Google credentials": (
        "keyfile_dict",
        "key_path",
        "credential_config_file",
        "impersonation_chain",
        "quota_project",
        "scopes",
    ),
    "Calls": ("api_version", "timeout", "max_retries"),
    "Other servers": ("storage_host", "bigquery_host", "allow_http", "is_anonymous"),
}
"""Fields that stand together, under these names where the form has sections (Airflow 3.2 and later)."""

# The port stays in sight, as a base URL may have it apart. We read 0 as none: the form sends that for an empty one.
HIDDEN_FIELDS = ("schema", "login")
RELABELING = {"host": "Base URL", "password": "API key"}
PLACEHOLDERS = {
    "host": "empty: Google's",
    "password": "of the Gemini Developer API; empty for Vertex AI",
    "port": "empty: the base URL's",
}


def label_of(name: str) -> str:
    """Return the form's words for a field, with the name it has in JSON."""
    if name in EXTRA_FIELDS:
        return f"{EXTRA_FIELDS[name].label} (extra {name!r})"
    if name in RELABELING:
        return f"{RELABELING[name]} ({name})"
    return f"Extra {name!r}"


def connection_fields() -> dict[str, Any]:
    """Return the ``conn-fields`` of the provider's metadata, which Airflow 3.2 and later read."""
    types = {"text": "string", "secret": "string", "whole": "integer", "number": "number", "flag": "boolean"}
    fields: dict[str, Any] = {}
    for name, field in EXTRA_FIELDS.items():
        schema: dict[str, Any] = {"type": [types[field.kind], "null"]}
        if field.kind == "secret":
            schema["format"] = "password"
        if field.kind in ("whole", "number"):
            schema["minimum"] = 1
        if field.choices:
            schema["enum"] = list(field.choices)
            schema["default"] = field.choices[0]
        schema["section"] = next(group for group, names in GROUPS.items() if name in names)
        # Named as in JSON too: that is how docs, messages and `airflow connections` speak of it.
        fields[name] = {"label": f"{field.label} ({name})", "description": field.description, "schema": schema}
    return fields


def metadata_field_behaviour() -> dict[str, Any]:
    """Return the ``ui-field-behaviour`` of the provider's metadata: kebab-case names."""
    return {"hidden-fields": list(HIDDEN_FIELDS), "relabeling": dict(RELABELING), "placeholders": dict(PLACEHOLDERS)}


def ui_field_behaviour() -> dict[str, Any]:
    """Return what the hook's ``get_ui_field_behaviour`` answers: the same in snake_case."""
    return {"hidden_fields": list(HIDDEN_FIELDS), "relabeling": dict(RELABELING), "placeholders": dict(PLACEHOLDERS)}


def connection_form_widgets() -> dict[str, Any]:
    """
    Return what the hook's ``get_connection_form_widgets`` answers.

    :raises ImportError: Without ``wtforms``, ``flask_appbuilder`` and ``flask_babel``, which the form on Airflow 2.11
        and 3.1 brings.
    """
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from flask_babel import lazy_gettext
    from wtforms import BooleanField, IntegerField, PasswordField, StringField
    from wtforms.validators import NumberRange, Optional, Regexp, any_of

    widgets: dict[str, Any] = {}
    for name, field in EXTRA_FIELDS.items():
        words: dict[str, Any] = {"label": lazy_gettext(field.label), "description": field.description}
        if field.kind == "flag":
            widgets[name] = BooleanField(**words, default=False)
        elif field.kind == "secret":
            widgets[name] = PasswordField(**words, widget=BS3PasswordFieldWidget())
        elif field.kind == "whole":
            widgets[name] = IntegerField(**words, widget=BS3TextFieldWidget(), validators=[Optional(), NumberRange(1)])
        elif field.kind == "number":
            # One field of a class that Airflow does not know, such as FloatField, costs the whole form.
            checks = [Optional(), Regexp(r"^\d+(\.\d+)?$", message="a number of seconds")]
            widgets[name] = StringField(**words, widget=BS3TextFieldWidget(), validators=checks)
        else:
            # Airflow 3.1 knows a list of choices by this spelling alone.
            checks = [Optional(), any_of(list(field.choices))] if field.choices else []
            widgets[name] = StringField(**words, widget=BS3TextFieldWidget(), validators=checks)
    return widgets
