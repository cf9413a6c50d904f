# SPDX-License-Identifier: Apache-2.0
"""What a backend wants of the rows of a job, whatever they ask."""

# One entry a backend: the rest of the room reads the rule that it needs, and never asks for the backend's name.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.api.models import BackendName

GIB = 1024**3


@dataclass(frozen=True)
class BackendRules:
    """
    What one backend wants of rows.

    :param label: What it is called at the beginning of a sentence.
    :param max_file_bytes: The largest input file of one job.
    :param max_generate_rows: Rows in one job that generates; None if no limit is published.
    :param max_embed_rows: Rows in one job that embeds.
    :param max_legacy_rows: The same for the embedding models before Gemini's.
    :param is_imported: Whether rows are loaded into columns before any of them runs. Then one odd row fails the whole
        job (:mod:`.vertex_import`), and keys travel with a prefix (:data:`~.keys.KEY_PREFIX`).
    :param needs_role: Whether each content needs a role.
    :param takes_model: Whether a request may name its model.
    :param takes_cached_content: Whether a request may refer to cached contents.
    :param nests_embed_settings: Whether a row has its embedding settings in ``embed_content_config``.
    :param has_legacy_embeddings: Whether it serves the embedding models before Gemini's, whose rows are bare texts.
    """

    label: str
    max_file_bytes: int
    max_generate_rows: int | None = None
    max_embed_rows: int | None = None
    max_legacy_rows: int | None = None
    is_imported: bool = False
    needs_role: bool = False
    takes_model: bool = True
    takes_cached_content: bool = True
    nests_embed_settings: bool = False
    has_legacy_embeddings: bool = False


# Sizes: https://ai.google.dev/gemini-api/docs/batch-api (2 GB) and
# https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini (1 GB, 200,000 rows).
# Rows that embed: https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/embeddings/
# batch-prediction-genai-embeddings
RULES: Mapping[BackendName, BackendRules] = {
    "gemini": BackendRules("The Gemini Developer API", 2 * GIB),
    "vertex_ai": BackendRules(
        "Vertex AI",
        GIB,
        max_generate_rows=200_000,
        max_embed_rows=1_000_000,
        max_legacy_rows=30_000,
        is_imported=True,
        needs_role=True,
        takes_model=False,
        takes_cached_content=False,
        nests_embed_settings=True,
        has_legacy_embeddings=True,
    ),
}
