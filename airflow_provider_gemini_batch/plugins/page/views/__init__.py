# SPDX-License-Identifier: Apache-2.0
"""One module a view; each has ``ROUTES``, which :mod:`airflow_provider_gemini_batch.plugins.page.app` serves."""
