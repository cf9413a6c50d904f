# SPDX-License-Identifier: Apache-2.0
"""
Everything the hook can do, as plain Python without Airflow.

.. code-block:: python

    from airflow_provider_gemini_batch.client import GeminiBatchClient

    with GeminiBatchClient.connect("API key") as client:
        job = client.create_batch("gemini-3.5-flash-lite", inlined_requests=[{"key": "a", "prompt": "Say hello"}])
        client.wait_for_batch(job.name, timeout=24 * 3600)
        for answer in client.get_responses(job.name):
            print(answer.key, answer.text)

Rows in, a table out: :func:`~airflow_provider_gemini_batch.run.waiting.run_batch`, which takes such a client.
"""

from airflow_provider_gemini_batch.client.client import GeminiBatchClient

__all__ = ["GeminiBatchClient"]
