# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: measure, print one table, and keep it in ``benchmarks/RESULTS.md`` after a whole run."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks import data_path, imports, installed, latency, machine, page_load, run_path, watching
from benchmarks.bench import Bench
from benchmarks.processes import MeasureFailedError
from benchmarks.report import HEAD, Row, carry_out, failed, line, table
from benchmarks.run_inputs import KINDS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
MEASURES = {
    "imports": imports.parts,
    "installed": installed.parts,
    "watching": watching.parts,
    "latency": latency.parts,
    "data_path": data_path.parts,
    "run": run_path.parts,
    "page": page_load.parts,
}
VERSIONS = ["apache-airflow", "airflow-provider-gemini-batch"]
OFFICIAL_VERSIONS = ["apache-airflow", "apache-airflow-providers-google", "google-genai"]
NOTES = """\
Each measure runs in a process of its own, against the package's emulator in another, over plain HTTP on one machine.
Memory is peak resident size over that of the process before the work, CPU is process time of the measured process.
Where a measure is repeated, the fastest one counts, with the most memory of all. Memory of whole runs is all that a
process has, Airflow included; scripts by hand submit nothing, and join answers that were written beforehand. The
modules in `benchmarks/` say how each one is taken. An empty target means that the figure is there to read the others
by."""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    words = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    words.add_argument("--only", nargs="+", choices=MEASURES, help="these measures alone; RESULTS.md is left as it is")
    words.add_argument("--quick", action="store_true", help="small sizes, to try it out; RESULTS.md is left as it is")
    words.add_argument("--google-python", help="interpreter of an environment with the official provider")
    words.add_argument("--rows", type=int, help="short rows of a whole run (default: 1,000,000)")
    words.add_argument("--runs", nargs="+", choices=KINDS, help="these kinds of whole runs alone")
    words.add_argument("--size", type=int, help="megabytes of input and of results (default: 1000)")
    return words


def bench_for(words: argparse.Namespace, work: Path) -> Bench:
    """Return what the command line asks for."""
    # Not resolved: an environment's interpreter is a link, and known by its place.
    python = str(Path(words.google_python).absolute()) if words.google_python else None
    bench = Bench(work, python)
    if words.quick:
        bench = Bench(
            work, python, size=50, official_size=50, jobs=200, many=1000, official_jobs=5, minute=10.0, repeats=1,
            rows=20_000, long_rows=2000, vectors=2000,
        )  # fmt: skip
    if words.size:
        bench.size = words.size
    if words.rows:
        bench.rows = words.rows
    if words.runs:
        bench.rows, bench.long_rows, bench.vectors = (
            count if kind in words.runs else 0
            for kind, count in zip(KINDS, (bench.rows, bench.long_rows, bench.vectors), strict=True)
        )
    return bench


def about(bench: Bench, seconds: float) -> str:
    """Say when, where and with what the figures were taken."""
    ours = ", ".join(f"{name} {number}" for name, number in machine.versions(*VERSIONS).items())
    lines = [f"{machine.today()}, {seconds / 60:.0f} minutes. {machine.machine()}.", "", f"Ours: {ours}."]
    found = bench.official("machine:named_versions", names=OFFICIAL_VERSIONS)
    if found:
        lines.append("Official provider: " + ", ".join(f"{name} {number}" for name, number in found.items()) + ".")
    return "\n".join(lines)


def main() -> int:
    """Run the measures; return 1 if one could not be taken."""
    words = parser().parse_args()
    # Whatever was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = HERE / ".work"
    work.mkdir(exist_ok=True)
    bench = bench_for(words, work)
    start = time.perf_counter()
    rows: list[Row] = []
    print(line(HEAD), flush=True)
    for name, parts in MEASURES.items():
        if words.only is None or name in words.only:
            rows += carry_out(name, lambda parts=parts: parts(bench), lambda text: print(text, flush=True))  # type: ignore[misc]
    head = about(bench, time.perf_counter() - start)
    rows += [failed("official provider", MeasureFailedError(reason)) for reason in bench.official_failures]
    text = "\n".join(["# Results of `make bench`", "", head, "", NOTES, "", table(rows), ""])
    print("\n" + text)
    print(f"{sum(row.met is False for row in rows)} of {sum(row.met is not None for row in rows)} targets missed")
    if words.only is None and not words.quick:
        RESULTS.write_text(text)
    return 1 if any(row.is_failure for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
