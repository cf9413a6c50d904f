# SPDX-License-Identifier: Apache-2.0
"""
What Airflow knows of this provider without loading it.

Nearly every process of Airflow calls this, so it imports nothing but the table of the connection's fields. Keys that an
older Airflow does not know are ignored there.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_gemini_batch.connection.form import (
    CONNECTION_TYPE,
    HOOK_NAME,
    connection_fields,
    metadata_field_behaviour,
)

_PACKAGE = "airflow_provider_gemini_batch"

_OPTIONS: dict[str, dict[str, str]] = {
    "namespace": {
        "description": (
            "Tells installations of Airflow apart that share a Google project or an API key and have "
            "DAGs of the same name; part of the token by which a task finds its own job again."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "production",
        "default": "",
    },
    "settle_seconds": {
        "description": (
            "For how long a new job is searched for after a submission whose reply was lost, before "
            "it is taken as not made."
        ),
        "version_added": "0.1.0",
        "type": "float",
        "example": "120",
        "default": "45",
    },
    "checkpoint_path": {
        "description": (
            "Where runs remember what they have read, asked and collected: a path or URI that all "
            "workers share. Empty is _gemini_batch beside the output."
        ),
        "version_added": "0.2.0",
        "type": "string",
        "example": "s3://lake/_gemini_batch",
        "default": "",
    },
    "prices_path": {
        "description": (
            "A JSON file with prices of your own, which come before the built-in ones: a list of "
            "objects with model, input, and optionally output, cached and since."
        ),
        "version_added": "0.2.0",
        "type": "string",
        "example": "/opt/airflow/prices.json",
        "default": "",
    },
    "monthly_budget": {
        "description": (
            "Dollars that all batches of a calendar month should cost at most. The page's view of spend draws it; "
            "nothing is held back by it."
        ),
        "version_added": "0.2.0",
        "type": "string",
        "example": "1200",
        "default": "",
    },
    "count_tokens": {
        "description": (
            "Whether the tokens of a few rows are counted by the service before a job is estimated, "
            "which costs nothing. Without it, and where it fails, tokens are estimated by bytes."
        ),
        "version_added": "0.2.0",
        "type": "boolean",
        "example": "False",
        "default": "True",
    },
    "history_path": {
        "description": (
            "Where each finished task leaves its manifest as a small file, for the spend command: a "
            "path or URI that all workers share. Empty: none is kept beside XCom."
        ),
        "version_added": "0.2.0",
        "type": "string",
        "example": "s3://lake/_gemini_batch_history",
        "default": "",
    },
    "output_mode": {
        "description": (
            "Most permissions that a new output file gets, as an octal mode; the umask of the worker "
            "applies besides. Result files hold prompts and answers."
        ),
        "version_added": "0.2.0",
        "type": "string",
        "example": "0640",
        "default": "",
    },
}
"""Options of the section ``[gemini_batch]``."""


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, as ``airflow/provider_info.schema.json`` describes it."""

    def modules(*names: str) -> list[dict[str, Any]]:
        return [{"integration-name": HOOK_NAME, "python-modules": [f"{_PACKAGE}.{name}" for name in names]}]

    return {
        "package-name": "airflow-provider-gemini-batch",
        "name": HOOK_NAME,
        "description": "Batch jobs of the Gemini API, on the Gemini Developer API and on Vertex AI.",
        "integrations": [
            {
                "integration-name": HOOK_NAME,
                "external-doc-url": "https://ai.google.dev/gemini-api/docs/batch-api",
                "tags": ["service"],
            }
        ],
        "operators": modules("operators"),
        "sensors": modules("sensors"),
        "hooks": modules("hooks.gemini_batch"),
        "triggers": modules("triggers.batch_job", "triggers.batch_jobs"),
        "task-decorators": [
            {"class-name": f"{_PACKAGE}.decorators.gemini_batch.gemini_batch_task", "name": "gemini_batch"},
            {
                "class-name": f"{_PACKAGE}.decorators.gemini_batch.gemini_embedding_batch_task",
                "name": "gemini_embedding_batch",
            },
        ],
        "cli": [f"{_PACKAGE}.cli.airflow_commands.get_commands"],
        # Airflow 2.11 shows no link of a class that is not named here.
        "extra-links": [f"{_PACKAGE}.links.{name}" for name in ("JobLink", "ResultsLink", "InputLink", "PageLink")],
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": f"{_PACKAGE}.hooks.gemini_batch.GeminiBatchHook",
                "hook-name": HOOK_NAME,
                "ui-field-behaviour": metadata_field_behaviour(),
                "conn-fields": connection_fields(),
            }
        ],
        "config": {
            "gemini_batch": {
                "description": "Settings of the Gemini Batch provider.",
                "options": _OPTIONS,
            }
        },
    }
