# SPDX-License-Identifier: Apache-2.0
"""What no repetition can help ends a wait at once, with its cause."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

WAIT = """
    import asyncio, json, time
    from airflow_provider_gemini_batch.triggers.batch_job import BatchJobTrigger

    async def wait():
        async for event in BatchJobTrigger("batches/abc", poll_interval=60, deadline=time.time() + 60).run():
            return event.payload

    begin = time.time()
    payload = asyncio.run(wait())
    print(json.dumps({**payload, "seconds": time.time() - begin}))
"""
MISSING = """
    import sys
    sys.modules["requests"] = None
"""


def wait_in_a_process(prelude: str = "", **environment: str) -> dict[str, object]:
    connection = {"conn_type": "gemini_batch", "host": "https://127.0.0.1:1", "password": "k" * 30}
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")
    env = {name: value for name, value in os.environ.items() if name.upper() not in names}
    env |= {"AIRFLOW_CONN_GEMINI_BATCH_DEFAULT": json.dumps(connection), **environment}
    script = textwrap.dedent(prelude) + textwrap.dedent(WAIT)
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=100)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("prelude", "environment", "cause"),
    [
        (MISSING, {}, "requests"),
        ("", {"REQUESTS_CA_BUNDLE": "/no/such/bundle.pem"}, "REQUESTS_CA_BUNDLE names /no/such/bundle.pem"),
        ("", {"HTTPS_PROXY": "ftp://proxy.example"}, "HTTPS_PROXY"),
    ],
    ids=["missing library", "certificates", "proxy"],
)
def test_a_client_that_cannot_be_built_ends_the_wait_at_once(
    prelude: str, environment: dict[str, str], cause: str
) -> None:
    payload = wait_in_a_process(prelude, **environment)
    assert payload["outcome"] == "error"
    assert cause in str(payload["message"])
    assert float(str(payload["seconds"])) < 30
