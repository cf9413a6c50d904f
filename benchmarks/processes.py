# SPDX-License-Identifier: Apache-2.0
"""
Each measure in a process of its own, and the emulator in another.

``python -m benchmarks.processes module:function arguments result`` calls the function with the JSON arguments and
writes what it returns as JSON. The module is loaded in that process only, so that it may be one for another
environment.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEY = "benchmark-key"
TIMEOUT = 300.0


class MeasureFailedError(Exception):
    """A measure's process has not returned a result."""


def call(
    function: str,
    *,
    work: Path,
    python: str = sys.executable,
    url: str = "",
    timeout: float = TIMEOUT,
    **arguments: Any,
) -> Any:
    """
    Call a function in a fresh process and return its result.

    :param function: ``module:function``, the module below this package.
    :param work: Folder for everything the process leaves on disk.
    :param python: Interpreter of the environment to run in.
    :param url: The emulator, which connections and clients of the process then lead to.
    :raises MeasureFailedError: With the end of what the process said.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="measure-") as folder:
        result, output = Path(folder) / "result.json", Path(folder) / "output.txt"
        command = [python, "-m", "benchmarks.processes", function, json.dumps(arguments), str(result)]
        with (
            output.open("wb") as sink,
            _running(command, stdout=sink, stderr=sink, env=_environment(folder, url)) as process,
        ):
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise MeasureFailedError(f"{function} took longer than {timeout:.0f} s") from None
        if process.returncode or not result.exists():
            said = output.read_text(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
            raise MeasureFailedError(f"{function}: {said[-1][:300]}")
        return json.loads(result.read_bytes())


def _environment(folder: str, url: str) -> dict[str, str]:
    """Nobody's real configuration or database is touched, and nothing leaves this machine."""
    # An installer leaves modules compiled. Where nothing may be written, each process would compile ours anew.
    foreign = ("AIRFLOW_", "GOOGLE_", "PYTHONDONTWRITEBYTECODE")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    ours = {"conn_type": "gemini_batch", "password": KEY, "host": url, "extra": {"timeout": 600}}
    return {
        **inherited,
        "AIRFLOW_HOME": folder,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Log lines are dropped: where a triggerer writes them to is not measured here.
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW_CONN_GEMINI_BATCH_DEFAULT": json.dumps(ours),
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps({"conn_type": "google_cloud_platform"}),
        "GOOGLE_GEMINI_BASE_URL": url,
        "SCARF_ANALYTICS": "false",
        "TMPDIR": folder,
    }


@contextmanager
def _running(command: list[str], env: Mapping[str, str], **streams: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a command; it has ended when this is left."""
    process = subprocess.Popen(command, cwd=ROOT, env=dict(env), **streams)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def emulator(work: Path) -> Iterator[tuple[str, int]]:
    """
    Run the emulator; yields its URL and its process.

    :param work: Folder for its files, removed afterwards.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="emulator-") as folder:
        command = [sys.executable, "-m", "airflow_provider_gemini_batch.emulator", "--port", "0", "--data-dir", folder]
        with _running(command, env=os.environ, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = re.search(r"http://[\w.:]+", process.stdout.readline())
            if found is None:
                raise MeasureFailedError("the emulator did not start")
            yield found[0], process.pid
            process.stdout.close()


def main() -> None:
    """Carry out one call in this process."""
    function, arguments, result = sys.argv[1:]
    module, _, name = function.partition(":")
    value = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**json.loads(arguments))
    Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    main()
