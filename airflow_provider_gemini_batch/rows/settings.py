# SPDX-License-Identifier: Apache-2.0
"""What applies to all rows of a job, and how much one job may hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows.backend_rules import GIB, RULES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_gemini_batch.api.models import BackendName, Kind
    from airflow_provider_gemini_batch.rows.backend_rules import BackendRules

_LEGACY_EMBEDDING = re.compile(r"(text-embedding-0|text-multilingual-embedding-|textembedding-gecko|multilingual-e5)")


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
    :param key: The member by which a row is known, or a list of members.
    :param skip_bad_rows: Leave out a row that cannot be sent, instead of refusing the whole input.
    """

    kind: Kind = "generate"
    backend: BackendName = "gemini"
    model: str = ""
    generation_config: Mapping[str, Any] | None = None
    system_instruction: str | Mapping[str, Any] | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None
    key: str | Sequence[str] = "key"
    skip_bad_rows: bool = False

    @property
    def rules(self) -> BackendRules:
        """What the backend wants of rows."""
        return RULES[self.backend]

    @property
    def is_legacy_embedding(self) -> bool:
        """Whether rows are ``{"content": "text"}``: the embedding models before Gemini's, on Vertex AI."""
        return (
            self.kind == "embed"
            and self.rules.has_legacy_embeddings
            and bool(_LEGACY_EMBEDDING.match(self.model.rpartition("/")[2]))
        )

    @property
    def max_rows(self) -> int | None:
        """Rows allowed in one job, or None if no limit is published (Developer API)."""
        if self.kind == "generate":
            return self.rules.max_generate_rows
        return self.rules.max_legacy_rows if self.is_legacy_embedding else self.rules.max_embed_rows


def check_file_size(size: int, backend: BackendName) -> None:
    """
    Refuse a file the backend would not take.

    :raises ConfigurationError: If *size* bytes are too many.
    """
    rules = RULES[backend]
    if size > rules.max_file_bytes:
        raise ConfigurationError(
            f"{rules.label} takes input files of up to {rules.max_file_bytes // GIB} GiB, and this one passes that "
            f"({size:,} bytes or more); split the rows over several jobs, e.g. with dynamic task mapping."
        )
