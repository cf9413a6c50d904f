# SPDX-License-Identifier: Apache-2.0
"""
Measure the data path: ``python -m benchmarks [--size 1000]`` (megabytes); writes ``benchmarks/RESULTS.md``.

Each measure runs in a process of its own, against an emulator in another one; memory is peak resident size over that of
the process right before the work, and speed is set against a plain copy of the same bytes on the same disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

HERE = Path(__file__).resolve().parent
MEGABYTE = 1_000_000
ROW_TEXT = "A sentence of ordinary length, as a row of a nightly job has many of. " * 14


@contextmanager
def emulator() -> Iterator[str]:
    """Run the emulator in a process of its own; yields its URL."""
    command = [sys.executable, "-m", "airflow_provider_gemini_batch.emulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://[\w.:]+", process.stdout.readline())
        assert found is not None
        try:
            yield found[0]
        finally:
            process.terminate()


def control(url: str, path: str, body: Any) -> None:
    """Call one of the emulator's control routes."""
    request = Request(f"{url}/_emulator/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as reply:
        reply.read()


def resident() -> int:
    """Return the bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Return the most bytes of this process that were ever in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Run *work* and tell its seconds, CPU seconds and peak memory over the start, in megabytes."""
    start, cpu, before = time.perf_counter(), time.process_time(), resident()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "memory": max(0, peak() - before) / MEGABYTE,
    }


def write_rows(path: Path, size: int) -> None:
    """Write input rows of about one kilobyte until *size* megabytes are full."""
    with path.open("w", encoding="utf-8") as file:
        written = number = 0
        while written < size * MEGABYTE:
            number += 1
            written += file.write(json.dumps({"key": f"k{number}", "prompt": f"{number}: {ROW_TEXT}"}) + "\n")


def write_results(path: Path, size: int) -> int:
    """Write result lines of about two kilobytes until *size* megabytes are full; returns their number."""
    number = 0
    with path.open("w", encoding="utf-8") as file:
        written = 0
        while written < size * MEGABYTE:
            number += 1
            candidate = {"content": {"parts": [{"text": ROW_TEXT * 2}], "role": "model"}, "finishReason": "STOP"}
            usage = {"promptTokenCount": 200, "candidatesTokenCount": 400, "totalTokenCount": 600}
            line = {"response": {"candidates": [candidate], "usageMetadata": usage}, "key": f"k{number}"}
            written += file.write(json.dumps(line) + "\n")
    return number


def one(name: str, url: str, folder: Path) -> dict[str, float]:
    """Carry out one measure in this process."""
    os.environ["AIRFLOW_CONN_GEMINI_BATCH_DEFAULT"] = json.dumps(
        {"conn_type": "gemini_batch", "password": "bench-key", "host": url, "extra": {"timeout": 600}}
    )
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
    from airflow_provider_gemini_batch.landing import land
    from airflow_provider_gemini_batch.operators import UploadFileOperator

    hook = GeminiBatchHook()
    hook.test_connection()
    rows, out = folder / "rows.jsonl", folder / "out.jsonl"
    if name == "upload":
        return measured(lambda: UploadFileOperator(task_id="upload", input_path=str(rows)).carry_out({}))
    script = {"mode": "at_once", "result_file": str(folder / "results.jsonl")}
    control(url, "jobs/script", {"times": 1, "script": script})
    job = hook.create_batch("gemini-2.5-flash", input_path=str(folder / "keys.jsonl"))
    job = hook.get_batch(job.name)
    assert job.output is not None
    place = job.output.place
    if name == "download":
        return measured(lambda: hook.download_file(place, str(out)))
    joined = str(folder / "keys.jsonl") if name == "joined" else None
    return measured(lambda: land(hook.result_lines(job), str(out), input_path=joined, include_response=name != "short"))


MEASURES = {
    "download": "result file downloaded as it is",
    "raw": "results landed as rows",
    "joined": "results landed, joined with the input",
    "upload": "input checked and uploaded",
}


def main() -> None:
    """Run all measures, print them and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1000, help="megabytes of input and of results")
    parser.add_argument("--google-python", help="Python with the official provider, for its import cost")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        name, url, place = words.one
        print(json.dumps(one(name, url, Path(place))))
        return
    with tempfile.TemporaryDirectory(prefix="gemini-bench-") as place, emulator() as url:
        folder = Path(place)
        write_rows(folder / "rows.jsonl", words.size)
        count = write_results(folder / "results.jsonl", words.size)
        with (folder / "keys.jsonl").open("w") as keys:
            keys.writelines(json.dumps({"key": f"k{number}", "prompt": "x"}) + "\n" for number in range(1, count + 1))
        start = time.perf_counter()
        shutil.copyfile(folder / "results.jsonl", folder / "copy.jsonl")
        with (folder / "copy.jsonl").open("rb") as file:
            os.fsync(file.fileno())
        copy = time.perf_counter() - start
        lines = [
            "| measure | seconds | of a plain copy's speed | CPU seconds | peak memory over the start |",
            "|---|---|---|---|---|",
        ]
        lines.append(f"| plain copy of the results | {copy:.1f} | 1.00 | | |")
        for name, words_for in MEASURES.items():
            command = [sys.executable, "-m", "benchmarks", "--one", name, url, place]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            got = json.loads(output.strip().splitlines()[-1])
            lines.append(
                f"| {words_for} | {got['seconds']:.1f} | {copy / got['seconds']:.2f} | {got['cpu']:.1f} "
                f"| {got['memory']:.0f} MB |"
            )
            print(lines[-1], flush=True)
    about = (
        f"{words.size} MB of rows of 1 KB and of results of 2 KB ({count:,} rows); {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, Airflow {version('apache-airflow')}."
    )
    text = "\n".join(["# Results of `make bench`", "", about, "", *lines, ""])
    (HERE / "RESULTS.md").write_text(text)
    print(text)
    if words.google_python:
        print("The comparison with the official provider is not part of this run yet.")


if __name__ == "__main__":
    main()
