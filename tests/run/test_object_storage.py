# SPDX-License-Identifier: Apache-2.0
"""Input, checkpoint and output in object storage."""

from __future__ import annotations

import pytest

from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.files.paths import open_read
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.run.sources import FileSource
from airflow_provider_gemini_batch.run.spec import Outputs, RunSpec
from tests.run.world import MODEL

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("airflow.sdk.io")
from tests.run.object_storage import served_s3  # noqa: E402

pytestmark = [
    pytest.mark.xdist_group("object storage"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


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
