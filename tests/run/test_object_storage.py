# SPDX-License-Identifier: Apache-2.0
"""Input, checkpoint and output in object storage; what fails half-way leaves the old output whole."""

from __future__ import annotations

import resource
import signal

import pytest

from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.files.paths import open_read
from airflow_provider_gemini_batch.run import plan
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.run.sources import FileSource, RowsSource
from airflow_provider_gemini_batch.run.spec import Outputs, RunSpec
from tests.run.world import MODEL, rows

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("airflow.sdk.io")
from tests.run.object_storage import served_s3  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def storage():
    with served_s3("lake") as relay:
        yield relay


def run(world, output, source, occasion="", checkpoint="s3://lake/_gemini_batch"):
    spec = RunSpec("generate", MODEL, Outputs(output), prompt="Say {{ row.word }}", key=("id",))
    context = world.context([], checkpoint=Folder(checkpoint, settle=0.0), occasion=occasion)
    context.source = lambda: source
    run = Run(spec, context)
    while isinstance(came := run.proceed(), Waiting):
        world.emulator.advance(3600)
    return came


def content(place: str) -> bytes:
    with open_read(place) as file:
        return file.read()


def test_everything_may_lie_in_object_storage(world, storage):
    import duckdb

    world.emulator.script(mode="at_once")
    folder = Folder("s3://lake/in")
    (world.folder / "a.csv").write_text("id,word\n1,one\n2,two\n")
    (world.folder / "b.csv").write_text("id,word\n3,three\n")
    folder.put("a.csv", str(world.folder / "a.csv"))
    folder.put("b.csv", str(world.folder / "b.csv"))
    run(world, "s3://lake/out/table.parquet", FileSource("s3://lake/in/*.csv"))
    (world.folder / "table.parquet").write_bytes(content("s3://lake/out/table.parquet"))
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT id, status FROM '{world.folder}/table.parquet'").fetchall()
    assert found == [("1", "succeeded"), ("2", "succeeded"), ("3", "succeeded")]


def test_name_is_created_by_one_of_two(storage):
    folder = Folder("s3://lake/race")
    assert folder.create("round-1.json", b"mine")
    assert not folder.create("round-1.json", b"yours")
    assert folder.read("round-1.json") == b"mine"
    assert folder.names() == ["round-1.json"]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_output_that_fails_half_way_leaves_the_old_one_whole(world, storage, suffix):
    world.emulator.script(mode="at_once")
    place = f"s3://lake/half/{suffix}/table.{suffix}"
    local = world.path("checkpoint")
    run(world, place, RowsSource(rows(5)), "first", local)
    before = content(place)
    storage.cut_after = 4000
    try:
        with pytest.raises(Exception):  # noqa: B017 - whatever the store's library raises
            run(world, place, RowsSource(rows(500, note="long " * 20)), "second", local)
    finally:
        storage.cut_after = None
    assert content(place) == before
    manifest = run(world, place, RowsSource(rows(500, note="long " * 20)), "second", local)
    assert manifest["total"] == 500
    assert content(place) != before
    # The answers were in the checkpoint: nothing was asked again.
    assert world.emulator.executions()["repeated_rows"] == 0


def test_local_output_that_fails_half_way_leaves_the_old_one_whole(world):
    world.emulator.script(mode="at_once")
    world.attempt(world.spec("out.jsonl"), rows(3))
    before = (world.folder / "out.jsonl").read_bytes()
    spec = world.spec("out.jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    context = world.context(rows(2000, note="long " * 50), occasion="second")
    attempt = Run(spec, context)
    # Everything up to the outputs, then a disk that takes no file of more than 100 kB.
    while not isinstance(plan.next_step(attempt.reader.facts(), spec.policy), plan.WriteOutputs):
        attempt.carry_out(plan.next_step(attempt.reader.facts(), spec.policy))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Exception):  # noqa: B017
            attempt.proceed()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert (world.folder / "out.jsonl").read_bytes() == before
    manifest = Run(spec, context).proceed()
    assert isinstance(manifest, dict)
    assert manifest["total"] == 2000
