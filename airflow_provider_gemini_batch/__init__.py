# SPDX-License-Identifier: Apache-2.0
"""Apache Airflow provider for the Gemini Batch API (Gemini Developer API and Vertex AI)."""

from __future__ import annotations

__version__ = "0.2.0rc1"
