# SPDX-License-Identifier: Apache-2.0
"""``@task.gemini_batch`` and ``@task.gemini_embedding_batch``."""
