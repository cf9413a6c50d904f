# SPDX-License-Identifier: Apache-2.0
"""The client does what the hook does, without Airflow."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from airflow_provider_gemini_batch.client import GeminiBatchClient
from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle

MODEL = "gemini-3.5-flash-lite"


@pytest.fixture
def client(gemini_batch_emulator: EmulatorHandle) -> GeminiBatchClient:
    return GeminiBatchClient.connect("emulator-key", base_url=gemini_batch_emulator.url)


def test_client_runs_a_job_where_airflow_cannot_be_imported(
    gemini_batch_emulator: EmulatorHandle, tmp_path: Path
) -> None:
    script = f"""
        import pathlib, sys
        sys.modules["airflow"] = None  # importing it is an ImportError from here on
        from airflow_provider_gemini_batch.client import GeminiBatchClient
        with GeminiBatchClient.connect("emulator-key", base_url={gemini_batch_emulator.url!r}) as client:
            job = client.create_batch({MODEL!r}, inlined_requests=[{{"key": "a", "prompt": "Say hello"}}])
            client.wait_for_batch(job.name, poll_interval=0.05)
            print([answer.key for answer in client.get_responses(job.name)])
            from airflow_provider_gemini_batch.run.waiting import run_batch
            manifest = run_batch(
                client, "generate", run_key="tried", checkpoint_path={str(tmp_path)!r}, progress=False, model={MODEL!r},
                rows=[{{"id": 1}}], prompt="Say {{{{ row.id }}}}", poll_interval=0.05,
                output_path=pathlib.Path({str(tmp_path / "out.jsonl")!r}),
            )
            print(manifest["succeeded"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.stderr == "", done.stderr
    assert (done.stdout.split(), done.stderr) == (["['a']", "1"], "")


def test_client_has_what_the_hook_has() -> None:
    names = {name for name in vars(GeminiBatchHook) if not name.startswith("_")}
    of_airflow = {name for name in names if name.startswith(("conn_", "default_", "hook_", "get_conn", "get_ui"))}
    assert {name for name in names - of_airflow if not hasattr(GeminiBatchClient, name)} == {
        "client",
        "run_batch",  # `run.waiting.run_batch`, which takes a client: a run stands on clients, not below them
        *vars(GeminiBatchClient.connect("key")).keys() & names,
    }


def test_client_can_be_used_again_after_it_was_closed(client: GeminiBatchClient) -> None:
    with client:
        assert client.test_connection()[0]
    assert client.list_batches().jobs == ()


def test_client_reads_the_fields_of_a_connection() -> None:
    client = GeminiBatchClient.connect(project="my-project", location="us-central1", timeout=5)
    assert client.settings.backend == "vertex_ai"
    assert (client.settings.project, client.settings.location, client.settings.timeout) == (
        "my-project",
        "us-central1",
        5.0,
    )


def test_client_refuses_an_argument_that_no_job_has(client: GeminiBatchClient) -> None:
    with pytest.raises(TypeError, match="prioritie"):
        client.create_batch(MODEL, inlined_requests=[{"prompt": "a"}], prioritie=5)  # type: ignore[call-arg]


def test_client_refuses_an_argument_of_the_other_kind_of_job(client: GeminiBatchClient) -> None:
    with pytest.raises(ConfigurationError, match="task_type belong to embedding jobs"):
        client.create_batch(MODEL, inlined_requests=[{"prompt": "a"}], task_type="RETRIEVAL_QUERY")  # type: ignore[call-arg]
    assert client.list_batches().jobs == ()
