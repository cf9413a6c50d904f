# SPDX-License-Identifier: Apache-2.0
"""The two drivers that carry out what :mod:`airflow_provider_gemini_batch.api` asks for, and their credentials."""
