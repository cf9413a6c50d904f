# SPDX-License-Identifier: Apache-2.0
"""``python -m airflow_provider_gemini_batch.emulator``: the same as ``python -m gemini_batch_emulator``."""

from gemini_batch_emulator.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
