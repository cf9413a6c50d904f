# SPDX-License-Identifier: Apache-2.0
"""What a step works on is gone after it, also where a worker was killed in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.run.world import rows

_KILLED = """
import os, pathlib, signal
from airflow_provider_gemini_batch.run.step_folder import step_folder
with step_folder() as folder:
    pathlib.Path(folder, "requests.jsonl").write_text("a prompt")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_next_run_removes_what_a_killed_worker_left_and_nothing_else(world, tmp_path, monkeypatch):
    from airflow_provider_gemini_batch.run.step_folder import step_folder

    place = tmp_path / "temporary"
    place.mkdir()
    environment = {**os.environ, "TMPDIR": str(place)}
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED], env=environment, capture_output=True, text=True, check=False
    )
    left = Path(ended.stdout.strip())
    assert (left / "requests.jsonl").read_text() == "a prompt"
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    (place / "gemini-batch-run-linked").symlink_to(tmp_path)
    (place / "of-others").mkdir()
    with step_folder() as living, step_folder() as young:
        for folder in (left, Path(living)):
            os.utime(folder / "lock", (0, 0))
        world.emulator.script(mode="at_once")
        world.attempt(world.spec(), rows(2))
        found = {path.name for path in place.iterdir()}
        assert found == {"of-others", "gemini-batch-run-linked", Path(living).name, Path(young).name}
    assert not Path(living).exists()
