# SPDX-License-Identifier: Apache-2.0
"""A run writes neither over what it reads nor into what it will read; both are told before money."""

from __future__ import annotations

import os

import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.files.folder import Folder
from airflow_provider_gemini_batch.files.paths import remote_path
from airflow_provider_gemini_batch.run.driver import Run, Waiting
from airflow_provider_gemini_batch.run.sources import FileSource, QuerySource
from airflow_provider_gemini_batch.run.spec import Outputs, RunSpec
from tests.run.world import MODEL

LINES = "id,word\n1,one\n2,two\n"


@pytest.fixture
def home(world, monkeypatch):
    """The test's folder as home and working directory, with one input file and a link to it."""
    monkeypatch.setenv("HOME", str(world.folder))
    monkeypatch.chdir(world.folder)
    (world.folder / "data").mkdir()
    (world.folder / "data" / "in.csv").write_text(LINES)
    (world.folder / "link.csv").symlink_to(world.folder / "data" / "in.csv")
    (world.folder / "linked").symlink_to(world.folder / "data")
    return world.folder


def refused(world, source, what: str, **outputs) -> None:
    spec = RunSpec("generate", MODEL, Outputs(**outputs), prompt="Say {{ row.word }}", key=("id",))
    with pytest.raises(ConfigurationError, match=what):
        world.attempt(spec, source)
    assert world.emulator.ledger()["totals"]["created"] == 0


@pytest.mark.parametrize(
    ("read", "output"),
    [
        ("{}/data/in.csv", "data/../data/in.csv"), ("{}/data/in.csv", "file:{}/linked/in.csv"),
        ("~/data/in.csv", "link.csv"), ("link.csv", "{}/data/in.csv"), ("data/in.csv", "file://{}/data/in.csv"),
        ("data/*.csv", "link.csv"), ("data", "linked/in.csv"),
    ],
)  # fmt: skip
def test_output_that_is_the_input_is_refused(world, home, read, output):
    refused(
        world, FileSource(read.format(home)), "output_path .* is (the|a file of the) input", path=output.format(home)
    )
    assert (home / "data" / "in.csv").read_text() == LINES


def test_errors_that_would_overwrite_the_input_are_refused(world, home):
    places = {"path": str(home / "out.parquet"), "errors_path": str(home / "link.csv")}
    refused(world, FileSource("data/in.csv"), "errors_path .* is the input", **places)


@pytest.mark.parametrize("read", ["data", "linked", "data/*.csv"])
def test_output_that_the_next_run_would_read_is_refused(world, home, read):
    refused(world, FileSource(read), "would be read again at the next run", path=str(home / "data" / "out.csv"))


def test_folder_that_is_read_is_no_output(world, home):
    refused(world, FileSource("data"), "is the input", path=str(home / "linked"))


@pytest.mark.parametrize("sql", ["SELECT * FROM 'data/in.csv'", 'SELECT * FROM "link.csv"',
                                 "SELECT * FROM read_csv(['data/*.csv'], all_varchar = true)"])  # fmt: skip
def test_output_that_a_query_reads_is_refused(world, home, sql):
    refused(world, QuerySource(sql), "output_path .* is (the|a file of the) input", path=str(home / "data" / "in.csv"))


def test_output_beside_the_input_is_fine(world, home):
    world.emulator.script(mode="at_once")
    for read, output in (("data/in.csv", "data/out.csv"), ("data/*.csv", "data/out.parquet"), ("data", "data/parts")):
        spec = RunSpec("generate", MODEL, Outputs(str(home / output)), prompt="Say {{ row.word }}", key=("id",))
        world.attempt(spec, FileSource(read), occasion=output)
        (home / output).unlink() if "." in output else None


def test_hard_link_to_the_input_is_fine(world, home):
    world.emulator.script(mode="at_once")
    os.link(home / "data" / "in.csv", home / "hard.csv")
    world.attempt(world.spec("hard.csv"), FileSource("data/in.csv"))
    assert (home / "data" / "in.csv").read_text() == LINES


def test_output_edited_to_the_input_in_mid_run_is_refused(world, home):
    run = Run(world.spec(), world.context(FileSource("data/in.csv")))
    assert isinstance(run.proceed(), Waiting)
    world.emulator.advance(3600)
    with pytest.raises(ConfigurationError, match="is the input"):
        world.attempt(world.spec("link.csv"), FileSource("data/in.csv"))
    assert (home / "data" / "in.csv").read_text() == LINES
    assert world.attempt(world.spec(), FileSource("data/in.csv"))["succeeded"] == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_same_object_under_another_name_is_refused(world, monkeypatch):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    pytest.importorskip("airflow.sdk.io")
    from airflow.sdk.io import attach

    from tests.run.object_storage import served_s3

    with served_s3("lake"):
        (world.folder / "in.csv").write_text(LINES)
        Folder("s3://lake/data").put("in.csv", world.path("in.csv"))
        attach("s3", conn_id="other", fs=remote_path("s3://lake").fs)
        for read, output in (
            ("s3://lake/data/in.csv", "s3://lake/data/in.csv"),
            ("s3://lake/data/in.csv", "s3://other@lake/data/in.csv"),
            ("s3://lake/data/in.csv", "s3a://lake/data/in.csv"),
            ("s3://lake/data/*.csv", "s3://lake/data/in.csv"),
            ("s3://lake/data", "s3://lake/data/out.csv"),
        ):
            refused(world, FileSource(read), "is the input|is a file of the input|would be read again", path=output)
