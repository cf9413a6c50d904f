# SPDX-License-Identifier: Apache-2.0
"""Results that come late, short, spoilt or inline, or that cannot be read; lists whose lag varies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulator.conftest import generate_line, inlined
from tests.support.emulator_serving import Served, generate_row

if TYPE_CHECKING:
    from tests.emulator.conftest import Caller


def file_job(caller: Caller, count: int = 10) -> dict[str, Any]:
    """An ended job of so many rows from a file."""
    lines = [generate_line(f"k{number}") for number in range(count)]
    return caller.ended(caller.create(caller.upload(lines)["name"]))


def vertex_job(served: Served, count: int = 40) -> dict[str, Any]:
    """An ended job of so many rows from an object."""
    return served.ended(served.create(served.put("in.jsonl", [generate_row(f"k{n}") for n in range(count)]))["name"])


def test_results_can_be_cut_at_a_lines_end(one: Caller) -> None:
    one.emulator.script(results_share=0.5)
    job = file_job(one)
    assert job["metadata"]["batchStats"] == {"requestCount": "10", "successfulRequestCount": "10"}
    assert [row["key"] for row in one.output(job)] == [f"k{number}" for number in range(5)]
    assert one.emulator.executions()["rows"] == 10


@pytest.mark.parametrize(("how", "content"), [("empty", b""), ("proxy_page", b"<!DOCTYPE html>")])
def test_a_result_file_can_be_spoilt(one: Caller, how: str, content: bytes) -> None:
    one.emulator.script(spoilt={"0": how})
    name = file_job(one)["response"]["responsesFile"]
    assert one.call("GET", f"{name}:download?alt=media").content.startswith(content)


def test_a_result_file_can_be_404_for_a_while(one: Caller) -> None:
    one.emulator.script(results_after=90)
    name = file_job(one)["response"]["responsesFile"]
    one.call("GET", f"{name}:download?alt=media", expect=404)
    one.emulator.advance(60)
    one.call("GET", f"{name}:download?alt=media")


def test_a_succeeded_job_can_show_its_output_late(one: Caller) -> None:
    one.emulator.script(output_after=90)
    job = file_job(one)
    assert job["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert "response" not in job
    assert "output" not in job["metadata"]
    assert one.output(one.ended(job))


def test_a_file_job_can_answer_inline(one: Caller) -> None:
    one.emulator.script(responses_inline=True)
    assert len(inlined(file_job(one))) == 10


def test_large_inline_answers_cannot_be_read_whole(one: Caller) -> None:
    one.emulator.configure(inline_read_limit=12_000)
    one.emulator.script(output_tokens=1000)
    job = one.inline("a", "b")
    one.emulator.advance(60)
    one.call("GET", job["name"], expect=503)
    assert one.call("GET", "batches?pageSize=5").json()["operations"][0]["done"] is True
    one.call("GET", f"{job['name']}?fields=metadata.state")
    masked = one.call("GET", f"{job['name']}?fields=response").json()
    assert len(inlined(masked)) == 2


def test_each_list_request_can_lag_by_its_own(one: Caller) -> None:
    one.emulator.configure(listing_lag=[0, 20, 5])
    one.inline("a")
    one.emulator.advance(10)
    seen = ["operations" in one.call("GET", "batches?pageSize=5").json() for _ in range(6)]
    assert seen == [True, False, True, True, False, True]


def test_a_shard_can_be_unlisted_empty_or_a_proxys_page(served: Served) -> None:
    served.state.configure({"shards": 4})
    served.state.add_script({"spoilt": {"0": "unlisted", "1": "empty", "2": "proxy_page"}})
    job = vertex_job(served)
    assert job["completionStats"] == {"successfulCount": "40"}
    directory = job["outputInfo"]["gcsOutputDirectory"].removeprefix("gs://emulator/")
    items = served.call("GET", "/storage/v1/b/emulator/o", params={"prefix": directory}).json()["items"]
    texts = {}
    for item in items:
        path = f"/storage/v1/b/emulator/o/{item['name'].replace('/', '%2F')}"
        texts[item["name"].rpartition("_")[2]] = served.call("GET", path, params={"alt": "media"}).text
    assert set(texts) == {"00002.jsonl", "00003.jsonl", "00004.jsonl"}
    assert texts["00002.jsonl"] == ""
    assert texts["00003.jsonl"].startswith("<!DOCTYPE html>")
    assert len(texts["00004.jsonl"].splitlines()) == 10


def test_an_unlisted_shard_appears(served: Served) -> None:
    served.state.add_script({"spoilt": {"0": "unlisted"}, "results_after": 7200})
    job = vertex_job(served)
    prefix = job["outputInfo"]["gcsOutputDirectory"].removeprefix("gs://emulator/")
    listed = served.call("GET", "/storage/v1/b/emulator/o", params={"prefix": prefix}).json()
    assert "items" not in listed
    served.state.clock.change(advance=7200)
    assert len(served.output(job)) == 40


def test_results_of_vertex_can_be_short_and_late(served: Served) -> None:
    served.state.add_script({"results_share": 0.25, "output_after": 7200})
    job = vertex_job(served)
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    assert "outputInfo" not in job
    assert len(served.output(served.ended(served.ended(job["name"])["name"]))) == 10


def test_vertex_says_which_model_answered(served: Served) -> None:
    served.state.add_script({"model_version": "gemini-3.8-flash"})
    assert served.output(vertex_job(served, 1))[0]["response"]["modelVersion"] == "gemini-3.8-flash@default"


def test_lines_as_openai_has_them_are_answered_in_that_form(one: Caller) -> None:
    body = {"model": "gemini-3.5-flash-lite", "messages": [{"role": "user", "content": "hello there"}]}
    lines = [{"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(2)]
    one.emulator.script(rows=[{"key": "c1", "outcome": "error", "code": 3, "message": "no"}])
    rows = one.output(one.ended(one.create(one.upload(lines)["name"])))
    assert [row["custom_id"] for row in rows] == ["c0", "c1"]
    answer = rows[0]["response"]
    assert answer["status_code"] == 200
    assert "hello there" in answer["body"]["choices"][0]["message"]["content"]
    assert set(answer["body"]["usage"]) == {"promptTokens", "completionTokens", "totalTokens"}
    assert (rows[1]["response"]["status_code"], json.dumps(rows[1]["response"]["body"]["error"])) == (
        400,
        '{"code": 400, "message": "no"}',
    )
