# SPDX-License-Identifier: Apache-2.0
"""What Airflow learns of results: events of outlets, lineage and metrics, and never at the price of the task."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch import compat
from airflow_provider_gemini_batch.lineage import asset_uri
from airflow_provider_gemini_batch.operators import CreateBatchOperator, DownloadResultsOperator, RunBatchOperator
from airflow_provider_gemini_batch.task.landed import EXTRA_KEY
from tests.support.airflow_side import attempt, rows, set_connection, write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


@pytest.fixture
def emulator(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    gemini_batch_emulator.script(mode="at_once")
    return gemini_batch_emulator


@dataclass
class Recorder:
    """A backend of Airflow's metrics that keeps what it is sent."""

    counts: dict[str, float] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)
    times: dict[str, Any] = field(default_factory=dict)

    def incr(self, stat: str, count: int = 1, rate: float = 1, *, tags: Any = None) -> None:
        self.counts[stat] = self.counts.get(stat, 0) + count
        self.tags[stat] = tags

    def timing(self, stat: str, dt: Any, *, tags: Any = None) -> None:
        self.times[stat] = dt


@contextlib.contextmanager
def recorded() -> Iterator[Recorder]:
    """Let Airflow send its metrics to a recorder."""
    recorder = Recorder()
    if not hasattr(sys.modules[compat.Stats.__module__], "initialize"):
        pytest.skip("this Airflow chooses its metrics' backend when it is imported")
    compat.Stats.initialize(factory=lambda: recorder, export_legacy_names=False)
    try:
        yield recorder
    finally:
        from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger

        compat.Stats.initialize(factory=NoStatsLogger, export_legacy_names=False)


def submit(count: int = 3, **arguments: Any) -> str:
    operator = CreateBatchOperator(
        task_id="create", model="gemini-3.5-flash-lite", inlined_requests=rows(count), **arguments
    )
    return str(operator.execute(attempt()))


@pytest.mark.parametrize(
    ("place", "uri"),
    [
        ("/data/out.jsonl", "file:///data/out.jsonl"),
        ("gs://b/o.jsonl", "gs://b/o.jsonl"),
        ("s3://b/o.jsonl", "s3://b/o.jsonl"),
        ("bq://p.d.t", "bigquery://p/d/t"),
        ("files/abc", ""),
        (None, ""),
    ],
)
def test_places_become_asset_uris(place: str | None, uri: str) -> None:
    assert asset_uri(place) == uri


def collector_of_airflow() -> Any:
    """Return a collector as Airflow has one where a reader of lineage is installed."""
    try:
        from airflow.sdk.lineage import HookLineageCollector
    except ImportError:
        from airflow.lineage.hook import HookLineageCollector  # type: ignore[no-redef]
    return HookLineageCollector()


def test_a_download_reports_what_it_read_and_wrote(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = collector_of_airflow()
    monkeypatch.setattr(compat, "get_hook_lineage_collector", lambda: collector, raising=False)
    source = write_rows(tmp_path / "in.jsonl", rows(3))
    target = str(tmp_path / "out.jsonl")
    name = submit()
    DownloadResultsOperator(task_id="land", job_name=name, input_path=source, output_path=target).execute(attempt())
    collected = getattr(collector, "collected_assets", None) or collector.collected_datasets
    read, written = (
        [(getattr(one, "asset", None) or one.dataset).uri for one in places]
        for places in (collected.inputs, collected.outputs)
    )
    assert (read, written) == ([f"file://{source}"], [f"file://{target}"])


def test_an_outlet_gets_the_manifest_with_its_event(emulator: EmulatorHandle, tmp_path: Path) -> None:
    asset = compat.Asset(uri=f"file://{tmp_path}/out.jsonl")
    context = {**attempt(), "outlet_events": outlet_events()}
    operator = DownloadResultsOperator(
        task_id="land", job_name=submit(), output_path=str(tmp_path / "out.jsonl"), outlets=[asset]
    )
    manifest = operator.execute(context)
    assert context["outlet_events"][asset].extra == {EXTRA_KEY: manifest}
    assert json.dumps(manifest)


def outlet_events() -> Any:
    """Return Airflow's own accessor of outlet events."""
    try:
        from airflow.sdk.execution_time.context import OutletEventAccessors
    except ImportError:
        from airflow.utils.context import OutletEventAccessors
    return OutletEventAccessors()


def test_a_run_tells_its_outlet_too(emulator: EmulatorHandle, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    asset = compat.Asset(uri=f"file://{tmp_path}/out.parquet")
    context = {**attempt(task_id="run"), "outlet_events": outlet_events()}
    manifest = run_operator(tmp_path, outlets=[asset]).execute(context)
    assert context["outlet_events"][asset].extra == {EXTRA_KEY: manifest}


def run_operator(folder: Path, **arguments: Any) -> RunBatchOperator:
    return RunBatchOperator(
        task_id="run",
        model="gemini-3.5-flash-lite",
        rows=[{"id": n, "text": "a"} for n in range(3)],
        key="id",
        prompt="Say {{ row.text }} {{ row.id }}",
        output_path=str(folder / "out.jsonl"),
        poll_interval=0.01,
        **arguments,
    )


def test_a_download_counts_rows_and_tokens(emulator: EmulatorHandle, tmp_path: Path) -> None:
    name = submit()
    with recorded() as metrics:
        DownloadResultsOperator(task_id="land", job_name=name, output_path=str(tmp_path / "o.jsonl")).execute(
            attempt(task_id="land")
        )
    assert metrics.counts["gemini_batch.rows.succeeded"] == 3
    assert metrics.tags["gemini_batch.rows.succeeded"] == {"dag_id": "nightly", "task_id": "land"}


def test_a_run_counts_rows_tokens_and_dollars(emulator: EmulatorHandle, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    with recorded() as metrics:
        run_operator(tmp_path).execute(attempt(task_id="run"))
    assert metrics.counts["gemini_batch.rows.succeeded"] == 3
    assert metrics.counts["gemini_batch.tokens.input"] > 0
    assert metrics.counts["gemini_batch.cost_microdollars"] > 0


def test_a_task_that_waits_counts_its_job_and_how_long_it_took(emulator: EmulatorHandle) -> None:
    with recorded() as metrics:
        submit(wait_for_completion=True)
    assert metrics.counts["gemini_batch.jobs.succeeded"] == 1
    assert metrics.times["gemini_batch.wait"].total_seconds() >= 0


def test_what_airflow_cannot_be_told_fails_no_task(emulator: EmulatorHandle, tmp_path: Path) -> None:
    asset = compat.Asset(uri="file:///data/out.jsonl")
    operator = DownloadResultsOperator(
        task_id="land", job_name=submit(), output_path=str(tmp_path / "out.jsonl"), outlets=[asset]
    )
    assert operator.execute(attempt())["succeeded"] == 3  # a context without outlet_events
