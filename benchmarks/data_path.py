# SPDX-License-Identifier: Apache-2.0
"""
Results brought home and input sent: peak memory and speed, beside the same bytes moved by nothing but system calls.

Every measure is taken several times and the fastest one counts, for us as for the limit: what slows a disk or a core
down for a moment belongs to neither. Files lie in the system's cache, and what is written is on disk before the clock
stops.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.inputs import result_line, short_row, wire_row, write_lines
from benchmarks.report import MEGABYTE, Part, Row, ratio, size
from benchmarks.usage import measured

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.control import Control

MEMORY_TARGET = 64 * MEGABYTE
AS_IT_IS = 0.5
READ_ROW_BY_ROW = 0.2


@dataclass
class _DataPath:
    """The files, the emulator and the limits of one run."""

    bench: Bench
    folder: Path
    url: str
    control: Control

    def __post_init__(self) -> None:
        self.results = self.folder / "results.jsonl"
        self.asked = self.folder / "asked.jsonl"
        self.short = self.folder / "short.jsonl"
        self.wire = self.folder / "wire.jsonl"
        self.target = self.folder / "out.jsonl"
        whole = self.bench.size * MEGABYTE
        self.rows = write_lines(self.results, result_line, size=whole)
        # What was asked, with its prompts: joining has to read it.
        write_lines(self.asked, short_row, count=self.rows)
        write_lines(self.short, short_row, size=whole)
        write_lines(self.wire, wire_row, size=whole)

    def best(self, work: Callable[[], float]) -> float:
        """Return the least of several times."""
        times = []
        for _ in range(self.bench.repeats):
            self.settle()
            times.append(work())
        return min(times)

    def settle(self) -> None:
        """Begin anew: nothing written before is still on its way to the disk, and nothing is at the emulator."""
        self.control.post("reset", {})
        self.target.unlink(missing_ok=True)
        os.sync()

    def job(self, results: Path) -> str:
        """Make an ended job whose result file this is; return its name."""
        script = {"mode": "at_once", "result_file": str(results)}
        self.control.post("seed_jobs", {"script": script})
        return self.control.job_names()[-1]

    def result_file(self, results: Path) -> str:
        """Make an ended job and return the name of its result file."""
        metadata = self.control.ask("GET", f"/v1beta/{self.job(results)}")["metadata"]
        name: str = metadata["output"]["responsesFile"]
        return name

    @property
    def room(self) -> dict[str, Any]:
        """What :func:`make_room` is called with: the most that a measure writes is a copy, and rows twice its size."""
        return {"folder": str(self.folder), "room": 3 * self.bench.size * MEGABYTE}

    # --- limits -------------------------------------------------------------------------------------------------------

    @cached_property
    def socket_copy(self) -> float:
        """Seconds of a copy of the results through a socket."""
        return self.best(lambda: self._limit("socket_copy", source=str(self.results), target=str(self.target)))

    @cached_property
    def file_copy(self) -> float:
        """Seconds of a copy of the results from file to file."""
        return self.best(lambda: self._limit("file_copy", source=str(self.results), target=str(self.target)))

    @cached_property
    def read_asked(self) -> float:
        """Seconds to read the input that the results are joined with."""
        return self.best(lambda: self._limit("file_read", path=str(self.asked)))

    @cached_property
    def emulator_sends(self) -> float:
        """Seconds that the emulator needs to send the results."""

        def download() -> float:
            path = f"/download/v1beta/{self.result_file(self.results)}:download?alt=media"
            return self._limit("emulator_sends", url=self.url, path=path)

        return self.best(download)

    @cached_property
    def emulator_takes(self) -> float:
        """Seconds that the emulator needs to take the input in."""
        return self.best(lambda: self._limit("emulator_takes", url=self.url, source=str(self.wire)))

    def _limit(self, name: str, **arguments: Any) -> float:
        seconds: float = self.bench.call("data_path:limit", name=name, arguments=arguments, **self.room)
        return seconds

    # --- ours ---------------------------------------------------------------------------------------------------------

    def ours(self, work: str, make: Callable[[], dict[str, Any]]) -> dict[str, float]:
        """
        Take a measure several times; the fastest counts, and the most memory.

        :param make: Prepares the emulator; returns the arguments.
        """
        found: list[dict[str, float]] = []
        for _ in range(self.bench.repeats):
            self.settle()
            found.append(self.bench.call(f"data_path:{work}", url=self.url, **self.room, **make()))
        best = min(found, key=lambda one: one["seconds"])
        return {**best, "memory": max(one["memory"] for one in found)}


def parts(bench: Bench) -> Iterator[Part]:
    """Yield the parts of this measure."""
    with tempfile.TemporaryDirectory(dir=bench.work, prefix="data-") as folder, bench.emulator() as (url, control):
        bench.call("data_path:compile_prices")
        data = _DataPath(bench, Path(folder), url, control)
        out = str(data.target)
        yield Part("limits", lambda: _limit_rows(data))
        yield Part(
            "download",
            lambda: _rows(
                data,
                "result file downloaded as it is",
                data.ours("download", lambda: {"file": data.result_file(data.results), "target": out}),
                data.socket_copy,
                AS_IT_IS,
            ),
        )
        for joined, raw in ((False, True), (True, True), (True, False)):
            title = f"results landed as rows{', joined with their input' if joined else ''}"
            yield Part(title, lambda joined=joined, raw=raw, title=title: _landed(data, title, joined, raw))  # type: ignore[misc]
        yield Part(
            "upload",
            lambda: _rows(
                data,
                "input uploaded as it is",
                data.ours("upload", lambda: {"source": str(data.wire)}),
                data.socket_copy,
                AS_IT_IS,
            ),
        )
        for form, source in (("wire", data.wire), ("short", data.short)):
            yield Part(f"check and upload, {form} form", lambda form=form, source=source: _checked(data, form, source))  # type: ignore[misc]
        yield Part("official provider", lambda: _fetched(data))


def _limit_rows(data: _DataPath) -> list[Row]:
    def speed(seconds: float) -> str:
        return f"{seconds:.2f} s, {data.bench.size / seconds:,.0f} MB/s"

    return [
        Row("limit: copy through a socket into a file, fsync", "", limit=speed(data.socket_copy)),
        Row("limit: copy from file to file, fsync", "", limit=speed(data.file_copy)),
        Row(
            f"limit: read of the input joined ({size(data.asked.stat().st_size)})", "", limit=f"{data.read_asked:.2f} s"
        ),
        Row("limit: what the emulator sends to a bare socket", "", limit=speed(data.emulator_sends)),
        Row("limit: what the emulator takes from a bare socket", "", limit=speed(data.emulator_takes)),
    ]


def _rows(data: _DataPath, title: str, ours: dict[str, float], limit: float, target: float) -> list[Row]:
    share = limit / ours["seconds"]
    return [
        Row(
            f"{data.bench.size:,} MB {title}: seconds (CPU)",
            f"{ours['seconds']:.2f} s ({ours['cpu']:.2f} s)",
            limit=f"{limit:.2f} s, ours is at {share:.2f}",
            target=f"{target:g} of the limit's speed",
            met=share >= target,
        ),
        Row(
            f"{data.bench.size:,} MB {title}: peak memory over the start",
            size(ours["memory"]),
            target=size(MEMORY_TARGET),
            met=ours["memory"] <= MEMORY_TARGET,
        ),
    ]


def _landed(data: _DataPath, title: str, joined: bool, raw: bool) -> list[Row]:
    def arguments() -> dict[str, Any]:
        asked = str(data.asked) if joined else None
        return {"job": data.job(data.results), "target": str(data.target), "asked": asked, "raw": raw}

    ours = data.ours("land", arguments)
    if ours["rows"] != data.rows:
        raise RuntimeError(f"{ours['rows']} of {data.rows} rows were landed")
    limit = data.socket_copy + (data.read_asked if joined else 0)
    return _rows(data, title if raw else f"{title}, without the raw response", ours, limit, READ_ROW_BY_ROW)


def _checked(data: _DataPath, form: str, source: Path) -> list[Row]:
    ours = data.ours("check_and_upload", lambda: {"source": str(source)})
    return _rows(data, f"input in {form} form checked and uploaded", ours, data.socket_copy, READ_ROW_BY_ROW)


def _fetched(data: _DataPath) -> list[Row]:
    bench = data.bench
    part = data.folder / "part.jsonl"
    rows = write_lines(part, result_line, size=bench.official_size * MEGABYTE)
    data.settle()
    to_land = {"job": data.job(part), "target": str(data.target), "asked": None, "raw": True}
    ours = bench.call("data_path:land", url=data.url, **to_land, **data.room)
    if ours["rows"] != rows:
        raise RuntimeError(f"{ours['rows']} of {rows} rows were landed")
    data.settle()
    with tempfile.TemporaryDirectory(dir=data.folder) as folder:
        official = bench.official("official:fetch", url=data.url, job_name=data.job(part), folder=folder)
    if official and official["bytes"] != part.stat().st_size:
        bench.official_failures.append(f"wrote {official['bytes']} of {part.stat().st_size} bytes")
    title = f"{bench.official_size:,} MB of results brought into a file"
    return [
        Row(
            f"{title}: peak memory over the start",
            size(ours["memory"]),
            size(official["memory"]) if official else "",
            ratio(ours["memory"], official["memory"]) if official else "",
        ),
        Row(
            f"{title}: seconds (ours also reads each row)",
            f"{ours['seconds']:.2f} s",
            f"{official['seconds']:.2f} s" if official else "",
            ratio(ours["seconds"], official["seconds"]) if official else "",
        ),
    ]


# --- what runs in processes of its own --------------------------------------------------------------------------------


def make_room(folder: str, room: int) -> None:
    """
    Have the system get hold of the memory that the files of a measure will lie in, before the clock starts.

    A virtual machine may give memory that was freed back to its host, and get it again page by page, which costs many
    times what the write does. It is the machine's price for memory, not that of a copy, and it varies between the two.
    """
    path = Path(folder) / "room"
    block = bytes(MEGABYTE)
    with path.open("wb", buffering=0) as file:
        for _ in range(room // MEGABYTE):
            file.write(block)
    path.unlink()


def compile_prices() -> None:
    """
    Have the price library compiled, as an installer leaves it.

    Some installers leave that to the first process that loads it. To compile its table of 1.6 MB takes that process
    60 MB and half a second, which would pass for the memory of the first landing.
    """
    import genai_prices  # noqa: F401


def limit(name: str, arguments: dict[str, Any], folder: str, room: int) -> float:
    """Take one of the limits."""
    from benchmarks import limits

    make_room(folder, room)
    seconds: float = getattr(limits, name)(**arguments)
    return seconds


def download(file: str, target: str, folder: str, room: int) -> dict[str, float]:
    """Download a file as it is."""
    hook = _hook()
    make_room(folder, room)
    return measured(lambda: hook.download_file(file, target))


def upload(source: str, folder: str, room: int) -> dict[str, float]:
    """Upload a file as it is."""
    hook = _hook()
    make_room(folder, room)
    return measured(lambda: hook.upload_file(source))


def land(job: str, target: str, asked: str | None, raw: bool, folder: str, room: int) -> dict[str, float]:
    """Land a job's results as the operator does."""
    from airflow_provider_gemini_batch.operators import DownloadResultsOperator

    _hook()
    operator = DownloadResultsOperator(
        task_id="land", job_name=job, output_path=target, input_path=asked, include_response=raw
    )
    make_room(folder, room)
    manifests: list[dict[str, Any]] = []
    found = measured(lambda: manifests.append(operator.execute({})))
    return {**found, "rows": manifests[0]["succeeded"]}


def check_and_upload(source: str, folder: str, room: int) -> dict[str, float]:
    """Check and upload input as the operator does."""
    from airflow_provider_gemini_batch.operators import UploadFileOperator

    _hook()
    operator = UploadFileOperator(task_id="upload", input_path=source)
    make_room(folder, room)
    return measured(lambda: operator.execute({}))


def _hook() -> Any:
    """Return a hook that has been used once: libraries are loaded and a connection was made before the clock starts."""
    from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook

    hook = GeminiBatchHook()
    works, message = hook.test_connection()
    if not works:
        raise RuntimeError(message)
    return hook
