# SPDX-License-Identifier: Apache-2.0
"""Vertex AI, Cloud Storage and BigQuery: requests made, replies read."""
