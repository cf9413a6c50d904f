# SPDX-License-Identifier: Apache-2.0
"""
``python -m tests.system.released``: what a newcomer does, on each Airflow with the versions it came out with.

For each ``requirements/released-<version>.txt``: a fresh environment, the wheel installed under those pins, a
connection to the emulator, README's smallest DAG by ``airflow dags test``, and its answer read. Nothing of this
checkout is on the path but the DAG's text.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOREIGN = ("AIRFLOW", "_AIRFLOW", "PYTHONPATH", "GOOGLE_", "GEMINI_")


class StepError(Exception):
    """A step of the walk failed; the text is what it printed."""


def versions() -> list[str]:
    """Return the Airflow versions that have a file of released pins, oldest first."""
    files = (ROOT / "requirements").glob("released-*.txt")
    return sorted((each.stem.removeprefix("released-") for each in files), key=lambda text: re.findall(r"\d+", text))


def run(command: list[str], env: dict[str, str], cwd: Path, timeout: float = 600) -> str:
    """Run a step and return what it printed."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise StepError(f"{' '.join(command[:6])}: exit {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout + done.stderr


def smallest_dag() -> str:
    """Return the first DAG that README prints."""
    (first, *_) = re.findall(r"^```python\n(.+?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return first


def walk(version: str, wheel: Path, folder: Path) -> dict[str, str]:
    """Install, connect, run and read; return the versions that were installed and the answer."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    python = folder / "venv/bin/python"
    run([sys.executable, "-m", "venv", str(folder / "venv")], clean, folder)
    pins = ROOT / f"requirements/released-{version}.txt"
    wanted = [f"apache-airflow=={version}", f"{wheel}[emulator]"]
    run([str(python), "-m", "pip", "install", "-qq", "--constraint", str(pins), *wanted], clean, folder, 1200)
    frozen = run([str(python), "-m", "pip", "freeze"], clean, folder)
    home = folder / "airflow"
    (home / "dags").mkdir(parents=True)
    answers = folder / "answers.jsonl"
    (home / "dags/ask.py").write_text(smallest_dag().replace("/tmp/answers.jsonl", str(answers)))
    emulator = subprocess.Popen(
        [str(python), "-m", "airflow_provider_gemini_batch.emulator", "--port", "0", "--speed", "60"],
        env=clean, cwd=folder, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert emulator.stdout is not None
        url = emulator.stdout.readline().split()[-1]
        env = {
            **clean,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW_CONN_GEMINI_BATCH_DEFAULT": json.dumps(
                {"conn_type": "gemini_batch", "password": "any-key", "host": url}
            ),
        }
        airflow = [str(python), "-m", "airflow"]
        run([*airflow, "db", "migrate"], env, folder)
        if not version.startswith("2."):
            run([*airflow, "dags", "reserialize"], env, folder)
        tested = run([*airflow, "connections", "test", "gemini_batch_default"], env, folder)
        run([*airflow, "dags", "test", "ask"], env, folder)
    finally:
        emulator.terminate()
        emulator.wait(20)
    (line,) = answers.read_text().splitlines()
    row = json.loads(line)
    if row["status"] != "succeeded" or not row["text"]:
        raise StepError(f"the answer is {line[:300]}")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", frozen, re.MULTILINE))
    return {
        "airflow": pinned["apache-airflow"],
        "connection": "works" if "Connection success" in tested else tested[-200:],
        "answer": row["text"][:40],
    }


def main(words: list[str] | None = None) -> int:
    """Return 0 if every version gave an answer."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.released", description=__doc__)
    parser.add_argument("--only", action="append", choices=versions(), help="one version; may be repeated")
    arguments = parser.parse_args(words)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="gemini-batch-released-") as name:
        base = Path(name)
        run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(base), str(ROOT)],
            {**os.environ},
            ROOT,
        )
        (wheel,) = base.glob("*.whl")
        for version in arguments.only or versions():
            folder = base / version
            folder.mkdir()
            began = time.monotonic()
            try:
                told = walk(version, wheel, folder)
                print(f"{version}: {told} in {time.monotonic() - began:.0f} s", flush=True)
            except (StepError, ValueError, FileNotFoundError) as error:
                failed += 1
                print(f"{version}: FAILED: {error}", flush=True)
            shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
