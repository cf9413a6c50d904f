# SPDX-License-Identifier: Apache-2.0
"""``python -m airflow_provider_gemini_batch``: see :mod:`airflow_provider_gemini_batch.cli`."""

import sys

from airflow_provider_gemini_batch.cli import main

if __name__ == "__main__":
    sys.exit(main())
