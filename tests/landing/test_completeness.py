# SPDX-License-Identifier: Apache-2.0
"""What a job counts must arrive, from the input that it was made from; else nothing is published and a retry helps."""

from __future__ import annotations

import gzip
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch.client import results
from airflow_provider_gemini_batch.compat import AirflowFailException
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    InputMismatchError,
    PartialFailureError,
    ResultsIncompleteError,
)
from airflow_provider_gemini_batch.hooks.gemini_batch import GeminiBatchHook
from airflow_provider_gemini_batch.landing.facts import JobFacts
from airflow_provider_gemini_batch.landing.join import land
from airflow_provider_gemini_batch.operators import (
    CreateBatchOperator,
    CreateEmbeddingBatchOperator,
    UploadFileOperator,
)
from airflow_provider_gemini_batch.operators import DownloadResultsOperator as Download
from airflow_provider_gemini_batch.rows.input_digest import InputDigest
from tests.support.airflow_side import attempt, rows, set_connection, write_rows

if TYPE_CHECKING:
    from gemini_batch_emulator.pytest_plugin import EmulatorHandle


KEYLESS = [{"prompt": f"Say {n}"} for n in range(5)]


@pytest.fixture
def developer(gemini_batch_emulator: EmulatorHandle, monkeypatch: pytest.MonkeyPatch) -> EmulatorHandle:
    set_connection(monkeypatch, gemini_batch_emulator.connection("gemini"))
    return gemini_batch_emulator


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are not there yet are not waited for."""
    monkeypatch.setattr(results, "PATIENCE", 0.0)


def submit(**arguments: Any) -> str:
    return str(CreateBatchOperator(task_id="create", model="gemini-3.5-flash-lite", **arguments).execute(attempt()))


def download(name: str, folder: Path, **arguments: Any) -> dict[str, Any]:
    return dict(Download(task_id="d", job_name=name, output_path=str(folder / "out.jsonl"), **arguments).execute({}))


def landed(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


# --- fewer answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "as they come"])
@pytest.mark.parametrize("allowed", [None, 0, 0.9])
def test_a_result_cut_at_a_line_end_publishes_nothing(
    emulator: EmulatorHandle, tmp_path: Path, joined: bool, allowed: float | None
) -> None:
    emulator.script(mode="at_once", results_share=0.5)
    path = write_rows(tmp_path / "in.jsonl", rows(40))
    name = submit(input_path=path)
    (tmp_path / "out.jsonl").write_text("yesterday")
    with pytest.raises(ResultsIncompleteError, match="counts 40 answers, and 20 arrived") as caught:
        download(name, tmp_path, input_path=path if joined else None, max_failed_rows=allowed)
    assert not isinstance(caught.value, AirflowFailException)
    assert (tmp_path / "out.jsonl").read_text() == "yesterday"
    manifest = download(name, tmp_path, input_path=path if joined else None, check_counts=False, max_failed_rows=0.9)
    assert manifest["succeeded"] == 20


@pytest.mark.parametrize("arrived", [3, 4])
def test_one_answer_that_is_missing_publishes_nothing(tmp_path: Path, arrived: int) -> None:
    lines = [json.dumps({"key": f"k{n}", "response": {"candidates": []}}).encode() + b"\n" for n in range(arrived)]
    job = JobFacts(name="batches/one", answers=4)
    with pytest.raises(ResultsIncompleteError) if arrived < 4 else nullcontext():
        land(lines, tmp_path / "out.jsonl", job=job)
    assert (tmp_path / "out.jsonl").exists() == (arrived == 4)


@pytest.mark.parametrize("answers", [None, 6], ids=["uncounted", "counted"])
@pytest.mark.parametrize(
    "page",
    [
        b"<html>\n",
        b"upstream connect error",
        b"\xef\xbb\xbf<!DOCTYPE html>\n",
        b'{"error": {"code": 502, "message": "Bad Gateway"}}\n',
    ],
    ids=["page", "text", "page with a mark", "object"],
)
def test_a_page_among_answers_publishes_nothing(tmp_path: Path, answers: int | None, page: bytes) -> None:
    lines = [json.dumps({"key": f"k{n}", "response": {"candidates": []}}).encode() + b"\n" for n in range(4)]
    job = JobFacts(name="batches/one", answers=answers)
    with pytest.raises(ResultsIncompleteError):
        land([*lines, page], tmp_path / "out.jsonl", job=job)
    assert not (tmp_path / "out.jsonl").exists()
    assert land([*lines, page], tmp_path / "out.jsonl", job=job, check_counts=False).unreadable == 1


@pytest.mark.parametrize("how", ["empty", "proxy_page", "unlisted"])
def test_a_spoilt_shard_publishes_nothing(emulator: EmulatorHandle, tmp_path: Path, hasty: None, how: str) -> None:
    emulator.script(mode="at_once", spoilt={"0": how}, results_after=3600)
    name = submit(input_path=write_rows(tmp_path / "in.jsonl", rows(4)))
    (tmp_path / "out.jsonl").write_text("yesterday")
    with pytest.raises(Exception, match=r"4 answers|not there yet|404|403") as caught:
        download(name, tmp_path)
    assert not isinstance(caught.value, AirflowFailException)
    assert (tmp_path / "out.jsonl").read_text() == "yesterday"


def test_vectors_that_did_not_arrive_are_missed(developer: EmulatorHandle, tmp_path: Path) -> None:
    developer.script(mode="at_once", results_share=0.5)
    path = write_rows(tmp_path / "in.jsonl", [{"key": f"k{n}", "text": "a"} for n in range(4)])
    create = CreateEmbeddingBatchOperator(task_id="c", model="gemini-embedding-001", input_path=path)
    with pytest.raises(ResultsIncompleteError):
        download(str(create.execute(attempt())), tmp_path)


def test_the_hook_misses_answers_after_the_last_one(developer: EmulatorHandle, tmp_path: Path) -> None:
    developer.script(mode="at_once", results_share=0.5, times=1)
    name = submit(input_path=write_rows(tmp_path / "in.jsonl", rows(4)))
    found = GeminiBatchHook().get_responses(name)
    assert [next(found).key for _ in range(2)] == ["k0", "k1"]
    with pytest.raises(ResultsIncompleteError, match="4 answers, and 2 arrived"):
        next(found)
    developer.script(mode="at_once", spoilt={"0": "proxy_page"})
    with pytest.raises(ResultsIncompleteError, match="1 answers, and 0 arrived"):
        list(GeminiBatchHook().get_responses(submit(input_path=write_rows(tmp_path / "one.jsonl", rows(1)))))


def test_rows_that_left_no_line_count_without_the_input_too(developer: EmulatorHandle, tmp_path: Path) -> None:
    developer.script(mode="at_once", rows=[{"key": "k1", "outcome": "missing"}])
    name = submit(input_path=write_rows(tmp_path / "in.jsonl", rows(20)))
    with pytest.raises(PartialFailureError, match="1 of 20 rows have no usable answer: 1 missing"):
        download(name, tmp_path, max_failed_rows=0)
    assert download(name, tmp_path)["succeeded"] == 19


# --- late answers, and answers elsewhere ----------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["output_after", "results_after"])
def test_answers_that_come_late_are_waited_for(
    emulator: EmulatorHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    emulator.script(mode="at_once", **{late: 30})
    name = submit(input_path=write_rows(tmp_path / "in.jsonl", rows(3)))
    pauses: list[float] = []

    def pause(seconds: float) -> Any:
        pauses.append(seconds)
        emulator.advance(seconds)
        yield from ()

    monkeypatch.setattr(results, "_pause", pause)
    assert download(name, tmp_path)["succeeded"] == 3
    assert 30 <= sum(pauses) <= 60


def test_answers_that_never_come_are_an_error_that_is_retried(
    emulator: EmulatorHandle, tmp_path: Path, hasty: None
) -> None:
    emulator.script(mode="at_once", output_after=1e6)
    name = submit(input_path=write_rows(tmp_path / "in.jsonl", rows(3)))
    with pytest.raises(ResultsIncompleteError, match="does not say yet where its answers are"):
        download(name, tmp_path)


def test_answers_of_a_file_job_are_found_inside_the_job(developer: EmulatorHandle, tmp_path: Path) -> None:
    developer.script(mode="at_once", responses_inline=True)
    path = write_rows(tmp_path / "in.jsonl", KEYLESS[:3])
    assert download(submit(input_path=path), tmp_path, input_path=path)["succeeded"] == 3


def test_one_copy_of_inline_answers_is_read(developer: EmulatorHandle, tmp_path: Path) -> None:
    developer.script(mode="at_once")
    name = submit(inlined_requests=rows(3))
    assert download(name, tmp_path)["succeeded"] == 3
    asked = [
        entry["query"] for entry in developer.journal() if entry["path"].endswith(name) and entry["method"] == "GET"
    ]
    assert "inlinedResponses" in asked[-1]
    assert not any("fields" not in query for query in asked)


@pytest.mark.parametrize("outcome", ["succeeded_with_errors", "cancelled_partial"])
@pytest.mark.parametrize("source", ["rows", "a file"])
@pytest.mark.parametrize("fields", ["honour", "ignore"])
def test_answers_inside_a_cancelled_job_land(
    developer: EmulatorHandle, tmp_path: Path, outcome: str, source: str, fields: str
) -> None:
    """The rows that ran are paid for, however the service calls the end of a job that was cancelled half-way."""
    developer.configure(cancel_outcome=outcome, fields=fields)
    developer.script(pending_seconds=0, running_seconds=1000, responses_inline=True)
    asked = [{"prompt": f"Say {n}"} for n in range(10)]
    path = write_rows(tmp_path / "in.jsonl", asked)
    name = submit(inlined_requests=asked) if source == "rows" else submit(input_path=path)
    developer.advance(500)
    assert GeminiBatchHook().get_batch(name).is_done is False
    GeminiBatchHook().cancel_batch(name)
    developer.advance(10)
    manifest = download(name, tmp_path, input_path=path, max_failed_rows=5)
    assert (manifest["succeeded"], manifest["failed"] + manifest["missing"]) == (5, 5)
    answered = [row["key"] for row in landed(tmp_path) if row["status"] == "succeeded"]
    assert answered == [f"row-{n}" for n in range(1, 6)]


@pytest.mark.parametrize("fields", ["ignore", "reject"])
def test_inline_answers_are_read_where_no_part_can_be_asked_for(
    developer: EmulatorHandle, tmp_path: Path, fields: str
) -> None:
    developer.script(mode="at_once")
    name = submit(inlined_requests=rows(3))
    developer.configure(fields=fields)
    assert download(name, tmp_path)["succeeded"] == 3


# --- the right input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["re-sorted", "regenerated"])
def test_keyless_rows_are_not_joined_with_a_changed_input(
    emulator: EmulatorHandle, tmp_path: Path, change: str
) -> None:
    emulator.script(mode="at_once")
    path = write_rows(tmp_path / "in.jsonl", KEYLESS)
    name = submit(input_path=path)
    assert download(name, tmp_path, input_path=path)["succeeded"] == 5
    before = (tmp_path / "out.jsonl").read_bytes()
    write_rows(tmp_path / "in.jsonl", KEYLESS[::-1] if change == "re-sorted" else [{"prompt": "x"}] * 5)
    with pytest.raises(ConfigurationError, match="not the input of"):
        download(name, tmp_path, input_path=path)
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_keyless_rows_of_a_list_are_joined_with_no_other_order(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    name = submit(inlined_requests=KEYLESS)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row, separators=(" , ", " : ")) + "\r\n" for row in KEYLESS))
    manifest = download(name, tmp_path, input_path=path)
    assert (manifest["succeeded"], manifest["by_number"]) == (5, 0)
    for others, why in ((KEYLESS[::-1], "another order"), ([{"prompt": "x"}] * 5, "other rows")):
        with pytest.raises(ConfigurationError, match=why):
            download(name, tmp_path, input_path=write_rows(path, others))


WAYS: list[tuple[dict[str, Any], str]] = [
    ({}, "\n"),
    ({"ensure_ascii": False, "sort_keys": True}, "\n"),
    ({"separators": (",", ":")}, "\r\n"),
    ({"separators": (",", ":"), "ensure_ascii": False}, "\n"),
]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_the_same_rows_written_another_way_are_the_jobs_input(tmp_path: Path, way: int) -> None:
    asked = [{"prompt": f"Größe \U0001f600 {n}/5", "note": 1.0, "a": 10**20} for n in range(5)]
    options, end = WAYS[way]
    digest = InputDigest()
    digest.add([(json.dumps(row, **options) + end).encode() for row in asked])
    path = tmp_path / "in.jsonl"
    response = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}
    answers = [json.dumps({"key": f"row-{n}", "response": response}).encode() + b"\n" for n in range(1, 6)]
    job = JobFacts("batches/a", "models/m", 5, digest.mark())
    # Spaces that nobody's writer sets, and members in an order of their own where the job's are sorted.
    path.write_text("".join(json.dumps(row, separators=(" , ", " : ")) + "\n" for row in asked))
    assert land(answers, tmp_path / "out.jsonl", job=job, input_path=path).succeeded == 5
    for others, why in ((asked[::-1], "another order"), ([{**asked[0], "note": 1}, *asked[1:]], "other rows")):
        with pytest.raises(InputMismatchError, match=why):
            land(answers, tmp_path / "out.jsonl", job=job, input_path=write_rows(path, others))


def test_a_job_of_a_version_that_counted_line_ends_knows_its_input(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\r\n" for row in rows(2)))
    # As such a version wrote it, for this file.
    job = JobFacts("batches/a", "models/m", 2, "d8b749afd5f7f6ca")
    response = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}
    answers = [json.dumps({"key": f"k{n}", "response": response}).encode() + b"\n" for n in range(2)]
    assert land(answers, tmp_path / "out.jsonl", job=job, input_path=path).succeeded == 2


def test_an_uploaded_file_carries_the_digest_to_its_job(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    path = write_rows(tmp_path / "in.jsonl", KEYLESS)
    name = submit(file_name=UploadFileOperator(task_id="u", input_path=path).execute({}))
    assert download(name, tmp_path, input_path=path)["succeeded"] == 5
    write_rows(tmp_path / "in.jsonl", KEYLESS[::-1])
    with pytest.raises(ConfigurationError, match="another order"):
        download(name, tmp_path, input_path=path)


def test_the_digest_is_carried_though_the_same_bytes_lie_there(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    path = write_rows(tmp_path / "in.jsonl", KEYLESS)
    first = CreateBatchOperator(task_id="other", model="gemini-3.5-flash-lite", input_path=path)
    first.execute(attempt(task_id="other"))
    name = submit(file_name=UploadFileOperator(task_id="u", input_path=path).execute({}))
    write_rows(tmp_path / "in.jsonl", KEYLESS[::-1])
    with pytest.raises(ConfigurationError, match="another order"):
        download(name, tmp_path, input_path=path)


def test_rows_joined_by_an_unproven_number_are_told(
    developer: EmulatorHandle, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    developer.script(mode="at_once")
    hook = GeminiBatchHook()
    contents = [{"role": "user", "parts": [{"text": "x"}]}]
    lines = [{"key": f"row-{n}", "request": {"contents": contents}} for n in range(1, 6)]
    file = hook.upload_file(write_rows(tmp_path / "numbered.jsonl", lines))
    name = hook.create_batch("gemini-3.5-flash-lite", file_name=file.name).name
    manifest = download(name, tmp_path, input_path=write_rows(tmp_path / "in.jsonl", KEYLESS[::-1]))
    assert (manifest["succeeded"], manifest["by_number"]) == (5, 5)
    assert "5 rows without a key were joined by their number" in caplog.text + capsys.readouterr().out
    keyed = submit(inlined_requests=rows(5))
    assert download(keyed, tmp_path, input_path=write_rows(tmp_path / "in.jsonl", rows(5)))["by_number"] == 0


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "as they come"])
def test_answers_that_came_twice_stand_for_no_others(tmp_path: Path, joined: bool) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(4))
    digest = InputDigest()
    digest.add(Path(path).read_bytes().splitlines(keepends=True))
    response = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}
    lines = [json.dumps({"key": f"k{n}", "response": response}).encode() + b"\n" for n in (0, 1, 0, 1)]
    job = JobFacts("batches/a", "models/m", 4, digest.mark())
    with pytest.raises(ResultsIncompleteError, match=r"4 answers, and 2 arrived \(2 came twice\)"):
        land(lines, tmp_path / "out.jsonl", job=job, input_path=path if joined else None)
    assert not (tmp_path / "out.jsonl").exists()
    foreign = replace(job, input_digest="")
    assert land(lines, tmp_path / "out.jsonl", job=foreign).repeated == 2


def test_a_packed_input_is_joined(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once", shuffle=True)
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in KEYLESS)))
    name = submit(input_path=str(packed))
    assert download(name, tmp_path, input_path=str(packed))["succeeded"] == 5


def test_rows_that_were_not_sent_land_as_failed_with_their_reason(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once", shuffle=True)
    lines = [*map(json.dumps, KEYLESS), '{"prompt": 5}', "no json", '{"key": "last", "prompt": "fine"}']
    path = write_rows(tmp_path / "in.jsonl", lines)
    name = submit(input_path=path, on_bad_row="land")
    manifest = download(name, tmp_path, input_path=path, max_failed_rows=2)
    assert (manifest["succeeded"], manifest["failed"], manifest["missing"]) == (6, 2, 0)
    bad = [row for row in landed(tmp_path) if row["status"] == "failed"]
    assert [row["key"] for row in bad] == ["row-6", "row-7"]
    assert all(row["error"]["message"].startswith("not sent: ") for row in bad)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_row_whose_key_was_there_before_takes_no_others_answer(
    emulator: EmulatorHandle, tmp_path: Path, shuffle: bool
) -> None:
    emulator.script(mode="at_once", shuffle=shuffle)
    path = write_rows(
        tmp_path / "in.jsonl", [*rows(3), {"key": "k1", "prompt": "another"}, {"key": "l", "prompt": "x"}]
    )
    name = submit(input_path=path, on_bad_row="land")
    manifest = download(name, tmp_path, input_path=path, max_failed_rows=1)
    assert (manifest["succeeded"], manifest["failed"], manifest["missing"]) == (4, 1, 0)
    third = landed(tmp_path)[3]
    assert (third["key"], third["status"], third["text"]) == ("k1", "failed", None)
    assert third["error"]["message"].startswith("not sent: this key was there before")


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_bad_row_takes_no_answer_of_a_later_row_with_its_key(
    emulator: EmulatorHandle, tmp_path: Path, shuffle: bool
) -> None:
    emulator.script(mode="at_once", shuffle=shuffle)
    path = write_rows(tmp_path / "in.jsonl", [{"key": "a", "prompt": 5}, *rows(2), {"key": "a", "prompt": "good"}])
    name = submit(input_path=path, on_bad_row="land")
    download(name, tmp_path, input_path=path, max_failed_rows=2)
    first, *_, last = landed(tmp_path)
    assert (first["key"], first["status"], first["text"]) == ("a", "failed", None)
    assert last["error"]["message"].startswith("not sent: this key was there before")


def test_rows_with_keys_may_be_re_sorted(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once")
    path = write_rows(tmp_path / "in.jsonl", rows(5))
    name = submit(input_path=path)
    write_rows(tmp_path / "in.jsonl", rows(5)[::-1])
    assert download(name, tmp_path, input_path=path)["succeeded"] == 5
    assert [row["key"] for row in landed(tmp_path)] == ["k4", "k3", "k2", "k1", "k0"]


@pytest.mark.parametrize("keys", ["the same", "others"])
def test_the_input_of_another_job_replaces_no_answers(emulator: EmulatorHandle, tmp_path: Path, keys: str) -> None:
    emulator.script(mode="at_once")
    path = write_rows(tmp_path / "in.jsonl", rows(3))
    name = submit(input_path=path)
    download(name, tmp_path, input_path=path)
    before = (tmp_path / "out.jsonl").read_bytes()
    letter = "k" if keys == "the same" else "x"
    other = write_rows(tmp_path / "other.jsonl", [{"key": f"{letter}{n}", "prompt": "another"} for n in range(3)])
    with pytest.raises(ConfigurationError, match="This is not the input of"):
        download(name, tmp_path, input_path=other)
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_without_a_digest_an_input_whose_keys_all_differ_is_refused(developer: EmulatorHandle, tmp_path: Path) -> None:
    developer.script(mode="at_once")
    name = submit(inlined_requests=rows(3))
    other = write_rows(tmp_path / "other.jsonl", [{"key": f"x{n}", "prompt": "another"} for n in range(3)])
    with pytest.raises(ConfigurationError, match="no answer belongs to any of its rows"):
        download(name, tmp_path, input_path=other)
    assert not (tmp_path / "out.jsonl").exists()


KEYED = {"key": "k1", "metadata": {}, "response": {"candidates": [{"content": {"parts": [{"text": "x"}]}}]}}
NAMELESS = {name: member for name, member in KEYED.items() if name != "key"}


@pytest.mark.parametrize("answers", [[NAMELESS] * 2, [NAMELESS, KEYED]], ids=["none has a key", "one has"])
def test_no_key_is_made_up_from_an_answers_place(tmp_path: Path, answers: list[dict[str, Any]]) -> None:
    job = JobFacts("batches/a", "models/m", 2)
    land(answers, tmp_path / "out.jsonl", job=job)
    assert [row["key"] for row in landed(tmp_path)] == [answer.get("key") for answer in answers]
    path = write_rows(tmp_path / "in.jsonl", KEYLESS[:2])
    with pytest.raises(InputMismatchError, match="not the input of"):
        land(answers, tmp_path / "out.jsonl", job=job, input_path=path)
    assert land(answers, tmp_path / "out.jsonl", job=job, input_path=path, check_input=False).by_number


def test_an_answer_without_a_key_spoils_no_others(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(2))
    found = land([NAMELESS, KEYED], tmp_path / "out.jsonl", job=JobFacts("batches/a", "m", 2), input_path=path)
    assert (found.succeeded, found.missing, found.unreadable) == (1, 1, 1)


def test_an_input_that_most_answers_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows(4))
    answers = [{**KEYED, "key": key} for key in ("k0", "x1", "x2", "x3")]
    job = JobFacts("batches/a", "models/m", 4)
    with pytest.raises(InputMismatchError, match="of 4 rows 1 have an answer, and 3 answers belong to none"):
        land(answers, tmp_path / "out.jsonl", job=job, input_path=path)
    assert land(answers[:1] * 4, tmp_path / "out.jsonl", job=job, input_path=path).missing == 3


# --- what is beside the rows ----------------------------------------------------------------------------------------


def test_members_of_the_users_rows_are_carried_into_the_result(emulator: EmulatorHandle, tmp_path: Path) -> None:
    emulator.script(mode="at_once", shuffle=True)
    asked = [
        {"id": n, "lang": "de", "request": {"contents": [{"role": "user", "parts": [{"text": "a"}]}]}} for n in range(5)
    ]
    path = write_rows(tmp_path / "in.jsonl", asked)
    name = submit(input_path=path, key="id")
    manifest = download(name, tmp_path, input_path=path, key="id")
    assert manifest["succeeded"] == 5
    assert [(row["key"], row["id"], row["lang"]) for row in landed(tmp_path)] == [(str(n), n, "de") for n in range(5)]
    assert len(manifest["input_sha256"]) == 64


def test_truncation_and_foreign_models_are_counted_and_told(
    developer: EmulatorHandle, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    developer.script(
        mode="at_once",
        rows=[
            {"key": "k0", "outcome": "max_tokens", "text": "half"},
            {"key": "k1", "model_version": "gemini-9-other"},
        ],
    )
    name = submit(input_path=write_rows(tmp_path / "in.jsonl", rows(4)))
    manifest = download(name, tmp_path)
    assert (manifest["truncated"], manifest["finish_reasons"]["MAX_TOKENS"]) == (1, 1)
    assert manifest["model_versions"]["gemini-9-other"] == 1
    said = caplog.text + capsys.readouterr().out
    assert "1 answers were cut off" in said
    assert "1 by gemini-9-other" in said
    with pytest.raises(PartialFailureError, match="1 cut off"):
        download(name, tmp_path, count_truncated=True, max_failed_rows=0)
