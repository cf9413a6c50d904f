# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import re
import sys
import tempfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.rows import line_batches as blocks
from airflow_provider_gemini_batch.rows.input_rows import row_keys
from airflow_provider_gemini_batch.rows.key_set import KeySet
from airflow_provider_gemini_batch.rows.line_batches import Lines
from airflow_provider_gemini_batch.rows.normalise import WireRow, normalise_rows
from airflow_provider_gemini_batch.rows.results import read_result
from airflow_provider_gemini_batch.rows.settings import RowSettings, check_file_size

CONTENTS = [{"role": "user", "parts": [{"text": "hi"}]}]
GENERATE = RowSettings()
EMBED = RowSettings(kind="embed")
VERTEX = RowSettings(backend="vertex_ai")
VERTEX_EMBED = RowSettings(kind="embed", backend="vertex_ai", model="gemini-embedding-001")


def normalised(rows: list[Any], settings: RowSettings = GENERATE) -> list[dict[str, Any]]:
    return [json.loads(row.line()) for row in normalise_rows(rows, settings)]


def one(row: Any, settings: RowSettings = GENERATE) -> Any:
    return normalised([row], settings)[0]["request"]


def refusal(rows: list[Any], settings: RowSettings = GENERATE) -> str:
    with pytest.raises(ConfigurationError) as caught:
        list(normalise_rows(rows, settings))
    return str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"key": "a", "request": {"contents": CONTENTS}},
        {"key": "a", "contents": CONTENTS},
        {"key": "a", "prompt": "hi"},
        {"request": {"contents": CONTENTS}, "metadata": {"key": "a"}},
    ],
)
@pytest.mark.parametrize("form", [dict, json.dumps, lambda row: json.dumps(row).encode() + b"\r\n"])
def test_every_form_of_a_generate_row_is_the_same_wire_row(row: dict[str, Any], form: Any) -> None:
    assert normalised([form(row)]) == [{"key": "a", "request": {"contents": CONTENTS}}]
    assert normalised([form(row)], VERTEX) == [{"key": "afgb:a", "request": {"contents": CONTENTS}}]


@pytest.mark.parametrize(
    "row",
    [
        {"request": {"content": {"parts": [{"text": "hi"}]}}},
        {"content": {"parts": [{"text": "hi"}]}},
        {"content": "hi"},
        {"text": "hi"},
    ],
)
def test_every_form_of_an_embedding_row_is_the_same_wire_row(row: dict[str, Any]) -> None:
    settings = RowSettings(kind="embed", task_type="RETRIEVAL_DOCUMENT", output_dimensionality=768)
    content = {"parts": [{"text": "hi"}]}
    assert one(row, settings) == {"content": content, "taskType": "RETRIEVAL_DOCUMENT", "outputDimensionality": 768}
    vertex = RowSettings(
        "embed", "vertex_ai", "gemini-embedding-001", task_type="RETRIEVAL_DOCUMENT", output_dimensionality=768
    )
    assert one(row, vertex) == {
        "content": content,
        "embed_content_config": {"task_type": "RETRIEVAL_DOCUMENT", "output_dimensionality": 768},
    }


def test_legacy_embedding_models_get_text_alone() -> None:
    settings = RowSettings("embed", "vertex_ai", "text-embedding-005")
    assert normalised([{"key": "a", "text": "hi"}], settings) == [{"key": "afgb:a", "content": "hi"}]
    assert "text alone" in refusal([{"text": "a"}], RowSettings("embed", "vertex_ai", "text-embedding-005", title="x"))


def test_rows_without_keys_are_numbered_from_one_over_rows_not_lines() -> None:
    lines = [b'\xef\xbb\xbf{"prompt": "a"}\n', b"\n", b'{"prompt": "b"}\n', b'{"key": "own", "prompt": "c"}']
    assert [row["key"] for row in normalised(lines)] == ["row-1", "row-2", "own"]
    assert [row.number for row in normalise_rows(lines, GENERATE)] == [1, 3, 4]
    assert list(row_keys(lines)) == ["row-1", "row-2", "own"]


def test_defaults_reach_rows_that_do_not_set_the_member_in_either_spelling() -> None:
    settings = RowSettings(generation_config={"max_output_tokens": 5, "temperature": 0}, system_instruction="Be brief.")
    row = {"prompt": "a", "generation_config": {"max_output_tokens": 9}}
    assert one(row, settings)["generationConfig"] == {"maxOutputTokens": 9, "temperature": 0}
    plain = one(json.dumps({"key": "a", "request": {"contents": CONTENTS}}), settings)
    assert plain["generationConfig"] == {"maxOutputTokens": 5, "temperature": 0}
    assert plain["systemInstruction"] == {"role": "user", "parts": [{"text": "Be brief."}]}
    own = {"parts": [{"text": "mine"}]}
    assert one({"request": {"contents": CONTENTS, "system_instruction": own}}, settings)["systemInstruction"] == own


def test_names_that_users_choose_keep_their_spelling() -> None:
    schema = {"type": "OBJECT", "properties": {"first_name": {"type": "STRING", "max_length": "5"}}}
    config = one({"prompt": "a", "generation_config": {"response_schema": schema}})["generationConfig"]
    assert config["responseSchema"]["properties"] == {"first_name": {"type": "STRING", "maxLength": "5"}}


def test_inline_form_keeps_metadata_and_adds_the_key() -> None:
    row = next(normalise_rows([{"request": {"contents": CONTENTS}, "metadata": {"own": "x"}}], GENERATE))
    assert row.inline() == {"request": {"contents": CONTENTS}, "metadata": {"own": "x", "key": "row-1"}}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b'{"key": "a" "prompt": 1}', "line 1: not JSON at column 13"),
        (b"[1]", "must be a JSON object, not a list"),
        ({"key": 7, "prompt": "a"}, "'key' must be a string, not a number"),
        ({"key": "", "prompt": "a"}, "'key' is empty"),
        ({"key": "a", "metadata": {"key": "b"}, "prompt": "x"}, "keep one"),
        ({"key": "k", "prompt": " "}, "(key 'k')"),
        ({"prompt": ["a"]}, "must be a string, not a list"),
        ({"text": "a"}, "CreateEmbeddingBatchOperator"),
        ({"request": {"content": {"parts": [{"text": "a"}]}}}, "CreateEmbeddingBatchOperator"),
        ({"prompt": "a", "custom_id": "x"}, "unknown member 'custom_id'"),
        ({"request": {"contents": CONTENTS}, "config": {}}, "request.generationConfig"),
        ({"request": {"contents": CONTENTS, "temperature": 1}}, "'temperature' directly in 'request'"),
        ({"prompt": "a", "temperature": 1}, "'temperature' must stand inside 'generationConfig'"),
        ({"prompt": "a", "generationConfig": {"tools": []}}, "directly in 'request'"),
        ({"prompt": "a", "generationConfig": {"topK": 1, "top_k": 2}}, "two spellings"),
        ({"request": {"contents": []}}, "at least one"),
        ({"request": {"contents": "hi"}}, "must be a list"),
        ({"request": {"contents": [{"parts": []}]}}, "no parts"),
        ({"request": {"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]}}, "write 'model'"),
        ({"request": {"contents": CONTENTS, "cachedContent": "cachedContents/x", "tools": [{}]}}, "cannot go with"),
        ({"request": {"contents": CONTENTS, "serviceTier": "x"}}, "serviceTier"),
        ({"prompt": "a\ud800"}, "cannot be written as JSON"),
        ({}, "it is empty"),
    ],
)
def test_a_bad_generate_row_is_refused_with_place_and_reason(row: Any, says: str) -> None:
    assert says in refusal([row])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (RowSettings(task_type="X"), "embedding jobs"),
        (RowSettings(kind="embed", generation_config={"topK": 1}), "generation jobs"),
        (RowSettings(generation_config={"systemInstruction": "x"}), "argument system_instruction"),
        (RowSettings(kind="embed", output_dimensionality=0), "above 0"),
        (RowSettings(system_instruction=" "), "is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: RowSettings, says: str) -> None:
    assert says in refusal([{"prompt": "a"}], settings)


def test_the_first_ten_bad_rows_are_named_at_once() -> None:
    text = refusal([{"prompt": ""}] * 15)
    assert text.count("'prompt' is empty") == 10
    assert "row 10 (" in text
    assert "row 11" not in text


def test_repeated_keys_no_rows_and_another_model_are_refused() -> None:
    assert "must be unique" in refusal([{"key": "a", "prompt": "x"}, {"key": "a", "prompt": "y"}])
    assert "no input rows" in refusal([b"\n", b"  \n"])
    row = {"request": {"contents": CONTENTS, "model": "models/gemini-3.8-flash"}}
    assert "all rows of a job share one" in refusal([row], RowSettings(model="gemini-3.5-flash-lite"))


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "a", "labels": {"x": "1"}}, {"prompt": "a", "labels": {"X": "1"}}], "case alone"),
        ([{"prompt": "a", "tools": [{"googleSearch": {}}]}], "empty object"),
        ([{"prompt": "a", "generationConfig": {"responseJsonSchema": {"$defs": {"x": 1}}}}], "cannot be a column"),
        ([{"prompt": "a", "generationConfig": {"responseJsonSchema": nested(14)}}], "deeper than 15"),
        ([{"prompt": "a", "generationConfig": {"stopSequences": [None]}}], "holds null"),
        ([{"prompt": "a", "generationConfig": {"x": [[1]]}}], "array in an array"),
        ([{"prompt": "a", "generationConfig": {"x": 1}}, {"prompt": "a", "generationConfig": {"x": [1]}}], "one kind"),
        ([{"prompt": "a", "cachedContent": "cachedContents/x"}], "not supported in batches on Vertex AI"),
    ],
)
def test_what_fails_a_whole_file_on_vertex_is_found_before_submitting(rows: list[Any], says: str) -> None:
    assert says in refusal(rows, VERTEX)


@pytest.mark.parametrize("place", ["responseSchema", "responseJsonSchema", "unknown"])
def test_a_row_that_is_nested_without_end_is_refused(place: str) -> None:
    depth = 100_000
    deep = '{"a":' * depth + "1" + "}" * depth
    line = f'{{"key": "k", "prompt": "a", "generationConfig": {{"{place}": {deep}}}}}'
    assert refusal([line]).startswith("line 1: objects or lists are nested too deeply")
    with pytest.raises(ConfigurationError, match="line 1: objects or lists are nested too deeply"):
        list(row_keys([line]))


def test_a_row_is_refused_once_it_is_nested_too_deeply_to_be_checked() -> None:
    config: dict[str, Any] = {}
    for _ in range(sys.getrecursionlimit()):
        config = {"a": config}
    assert "nested too deeply" in refusal([{"key": "k", "prompt": "a", "generationConfig": config}])


def test_an_object_in_itself_is_refused() -> None:
    config: dict[str, Any] = {}
    config["a"] = config
    assert "nested too deeply" in refusal([{"prompt": "a", "generationConfig": config}])
    assert "nested too deeply" in refusal([{"prompt": "a"}], RowSettings(generation_config=config))


def test_what_means_nothing_is_left_out_for_vertex() -> None:
    row = {
        "request": {
            "contents": [{"parts": [{"text": "a", "fileData": None}]}],
            "generationConfig": {"thinkingConfig": {}, "topK": None},
            "labels": {"n": 5},
        }
    }
    assert one(row, VERTEX) == {"contents": [{"role": "user", "parts": [{"text": "a"}]}], "labels": {"n": "5"}}


def test_too_many_rows_and_too_large_files_are_refused() -> None:
    legacy = RowSettings("embed", "vertex_ai", "text-embedding-005")
    rows = ({"text": "a"} for _ in range(30_001))
    with pytest.raises(ConfigurationError, match="up to 30,000 rows"):
        for _ in normalise_rows(rows, legacy):
            pass
    check_file_size(1024**3, "vertex_ai")
    with pytest.raises(ConfigurationError, match="split"):
        check_file_size(1024**3 + 1, "vertex_ai")
    check_file_size(1024**3 + 1, "gemini")


@given(
    st.lists(st.text(min_size=1, max_size=40).filter(lambda key: not key.startswith("afgb:")), unique=True, min_size=1)
)
def test_keys_survive_the_round_trip_to_either_backend_in_order(keys: list[str]) -> None:
    try:
        lines = [json.dumps({"key": key, "prompt": "x"}, ensure_ascii=False).encode() for key in keys]
    except UnicodeEncodeError:
        return
    assert list(row_keys(lines)) == keys
    for settings in (GENERATE, VERTEX):
        wire: list[WireRow] = list(normalise_rows(lines, settings))
        assert [row.key for row in wire] == keys
        assert all(row.line().count(b"\n") == 1 for row in wire)
        assert [read_result({"key": json.loads(row.line())["key"], "response": {}}).key for row in wire] == keys


@given(st.lists(st.text(), max_size=200))
def test_a_key_set_knows_what_it_was_given(keys: list[str]) -> None:
    seen = KeySet()
    assert sum(seen.add(key) for key in keys) == len(set(keys)) == len(seen)
    assert all(key in seen for key in keys)


@given(st.lists(st.integers(0, 300)), st.lists(st.integers(0, 300)), st.integers(1, 50))
def test_keys_that_ascend_at_first_are_known_like_any_others(first: list[int], then: list[int], block: int) -> None:
    keys = [str(number) for number in [*sorted(set(first)), *then]]
    seen, repeated = KeySet(), []
    for start in range(0, len(keys), block):
        repeated += [start + place for place in seen.add_all(keys[start : start + block])]
    assert repeated == [place for place, key in enumerate(keys) if key in keys[:place]]
    assert len(seen) == len(set(keys))
    assert all(key in seen for key in keys)
    assert "no" not in seen


def test_a_key_that_begins_like_our_mark_is_refused() -> None:
    for row in (
        {"key": "afgb:a", "prompt": "hi"},
        b'{"key":"afgb:a","request":{"contents":[{"parts":[{"text":"hi"}]}]}}',
    ):
        with pytest.raises(ConfigurationError, match="our own mark"):
            normalised([row])


def test_a_clash_of_kinds_names_the_line_that_settled_the_kind() -> None:
    def row(key: str, stop: object) -> dict:
        request = {
            "contents": [{"role": "user", "parts": [{"text": "x"}]}],
            "generationConfig": {"stopSequences": stop},
        }
        return {"key": key, "request": request}

    for before in ([], [{"key": "a", "prompt": "x"}, {"key": "b", "prompt": "x"}]):
        rows = [*before, {"key": "c", "request": {"contents": row("", [])["request"]["contents"]}}]
        rows += [row("d", ["x"]), row("e", "x")]
        with pytest.raises(ConfigurationError, match=f"an array in line {len(rows) - 1};"):
            list(normalise_rows([json.dumps(one).encode() + b"\n" for one in rows], VERTEX))


# --- the quick way for common rows ------------------------------------------------------------------------------------

COMMON = [
    {"key": "a", "prompt": 'Why "so"? \\ / \u00e9 \u2028 \U0001f600 \n'},
    {"prompt": "x", "key": "b"},
    {"key": "c", "request": {"contents": [{"role": "user", "parts": [{"text": "one"}, {"text": "two"}]}]}},
    {"key": "d", "request": {"contents": [{"parts": [{"text": "no role"}]}]}},
    {
        "key": "e",
        "request": {
            "generationConfig": {
                "temperature": 0.5,
                "responseSchema": {"type": "OBJECT", "properties": {"a_b": {"type": "STRING"}}},
            },
            "contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}],
            "systemInstruction": {"parts": [{"text": "Own."}]},
        },
    },
    {"key": "f", "request": {"contents": [{"role": "user", "parts": [{"text": "t"}]}], "generationConfig": {}}},
    {
        "key": "g",
        "request": {
            "contents": [{"role": "user", "parts": [{"text": "t"}]}],
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
            "tools": [{"functionDeclarations": [{"name": "f_g", "description": "d"}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        },
    },
    {"key": "request", "prompt": '"request"'},
]


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"generation_config": {"max_output_tokens": 7}, "system_instruction": "Be brief."}],
    ids=["plain", "with settings"],
)
@pytest.mark.parametrize("row", COMMON, ids=lambda row: row["key"])
def test_a_common_row_comes_out_as_the_long_way_makes_it(backend: str, settings: dict, row: dict) -> None:
    def wire(form: object) -> list:
        twice = [form, json.loads(json.dumps(row) if isinstance(form, dict) else form)]
        twice[1]["key"] = "again"
        if not isinstance(form, dict):
            twice = [str(form).encode(), json.dumps(twice[1]).encode() + b"\r\n"]
        given = normalise_rows(twice, RowSettings(backend=backend, model="gemini-3.5-flash-lite", **settings))
        return [(json.loads(out.line()), json.loads(out.body())) for out in given]

    assert wire(json.dumps(row)) == wire(row)


@pytest.mark.parametrize("backend", ["gemini", "vertex_ai"])
def test_a_common_text_to_embed_comes_out_as_the_long_way_makes_it(backend: str) -> None:
    settings = RowSettings(
        kind="embed", backend=backend, model="gemini-embedding-001", task_type="RETRIEVAL_DOCUMENT", title="T",
        output_dimensionality=8,
    )  # fmt: skip
    row = {"key": "a", "text": "some \u00e9 text"}
    quick, long = (list(normalise_rows([form], settings)) for form in (json.dumps(row).encode(), row))
    assert [json.loads(out.line()) for out in quick] == [json.loads(out.line()) for out in long]


@pytest.mark.parametrize(
    "text",
    [
        b'"plain"',
        b'" "',
        b'"\\n"',
        b'"\\u3000"',
        b'"\xe3\x80\x80"',
        b'"\xc2\x85\\t"',
        b'""',
        b'"\\"',
        b'"x',
        b"1",
        b"12",
        b"true",
        b"null",
        b'["x"]',
        b'{"x": "y"}',
        b'"\\q"',
        b'"\\ud800"',
        b'"\\ud83d\\ude00"',
        b'"\xff"',
        b'"a\xff"',
        b'"\x01"',
        b'"\xed\xa0\x80"',
        b'"\\u0000"',
        b'"a\nb"',
        b'"\\/"',
        b'"\xc3\xa9"',
        b'"\x7f"',
        b"",
    ],
)
@pytest.mark.parametrize("kind", ["generate", "embed"])
def test_a_text_that_stays_as_written_is_judged_as_one_that_is_read(kind: str, text: bytes) -> None:
    """The long way begins with a member that a common row has not."""
    settings = RowSettings(kind=kind, model="gemini-embedding-001" if kind == "embed" else "gemini-3.5-flash-lite")
    name = b"prompt" if kind == "generate" else b"text"
    outcomes = []
    for form in (b'{"key": "k", "%s": %s}\n', b'{"metadata": {}, "key": "k", "%s": %s}\n'):
        try:
            outcomes.append([json.loads(row.line()) for row in normalise_rows([form % (name, text)], settings)])
        except ConfigurationError as error:
            outcomes.append(re.sub(r"(byte|position|char|column) \d+", "there", str(error)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "row",
    [
        b'{"key": "a", "request": {"contents": [{"role": "user", "parts": [{"text": "t"}]}]}, "key": "b"}\n',
        b'{"key":"a","key":"b","request":{"contents":[{"role":"user","parts":[{"text":"t"}]}]}}\n',
        b'{"key": "b", "request": {"contents": [{"role": "user", "parts": [{"text": "s", "text": "t"}]}]}}\n',
        b'{"key": "b", "request": {"contents": [{"role": "user", "parts": [{"text": "t"}]}], '
        b'"generationConfig": {"topK": 1, "topK": 2}}}\n',
    ],
    ids=["key, apart", "key, side by side", "text", "in the settings"],
)
def test_of_a_member_that_is_there_twice_the_last_one_is_sent(row: bytes) -> None:
    """A service may not take the one that was checked, or that answers are joined by."""
    other = b'{"key": "%d", "request": {"contents": [{"role": "user", "parts": [{"text": "t"}]}]}}\n'
    given = list(normalise_rows(io.BytesIO(b"".join([other % 1, other % 2, row, other % 3])), GENERATE))
    assert [out.key for out in given] == ["1", "2", "b", "3"]

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    assert json.loads(given[2].line(), object_pairs_hook=once)["key"] == "b"


def test_lines_end_as_in_any_world_and_are_sent_with_one_newline() -> None:
    line = spelled("%d", '"a \\"quoted\\" word"')
    given = b"".join([line.replace(b"%d", b"1"), b"  " + line.replace(b"%d", b"2"), line.replace(b"%d\n", b"3\r\n")])
    given = given.replace(b"%d", b"3").removesuffix(b"\n") + b"\r\n"
    made = [row.line() for row in normalise_rows(io.BytesIO(given), GENERATE)]
    assert made == [line.replace(b"%d", b"%d" % number) for number in (1, 2, 3)]


@pytest.mark.parametrize(
    "row",
    [
        b'{"key": "b", "request": {"contents": [{"role": "user", "parts": [{"text": "\xff", "text": "t"}]}]}}\n',
        b'{"key": "b", "request": {"contents": [{"role": "user", "parts": [{"text": "t"}]}], '
        b'"generationConfig": {"stopSequences": ["\xff"]}, "generationConfig": {}}}\n',
    ],
    ids=["text", "settings"],
)
def test_a_row_is_utf_8_also_where_it_is_not_used(row: bytes) -> None:
    with pytest.raises(ConfigurationError, match="line 2"):
        list(normalise_rows(io.BytesIO(LINES[3].replace(b"%d", b"1") + row), GENERATE))


def in_blocks(*rows: list[bytes]) -> list[WireRow]:
    several: Any = [Lines(block) for block in rows]
    return list(normalise_rows(several, GENERATE))


def spelled(key: str, text: str, member: str = "key", role: str = '"role":"user",') -> bytes:
    return f'{{"{member}":"{key}","request":{{"contents":[{{{role}"parts":[{{"text":{text}}}]}}]}}}}\n'.encode()


@pytest.mark.parametrize(
    ("looked_at", "after"),
    [
        (spelled("a", '":"', role=""), spelled("b", "", role="").replace(b'"text":', b'"text"x":"')),
        (spelled("\\u0075ser", '"t"'), spelled("\\u0075ser", '"t"', role='"role":"system",')),
        (spelled("\\u006bey", '"t"'), spelled("\\u006bey", '"t"', member="config")),
        (spelled("a", '"t"'), spelled("b", '"  "')),
        (spelled("a", '"t"'), spelled("b", "1")),
        (spelled("a", '"t"'), spelled("", '"t"')),
        (spelled("a", '"t"'), spelled("k" * 1001, '"t"')),
        (spelled("a", '"t"'), spelled("afgb:b", '"t"')),
        (spelled("a", '"t"'), spelled('b","key":7,"key":"b', '"t"').replace(b"7", b'"c')),
        (spelled("a", '"t"'), spelled("b", '"t","text":1')),
    ],
    ids=[
        "a text like what is around it", "a key like a role", "a key like its name", "blank", "a number", "no key",
        "a long key", "our mark", "broken", "two texts",
    ],
)  # fmt: skip
def test_a_line_like_one_that_was_looked_at_is_refused_where_it_would_be_alone(looked_at: bytes, after: bytes) -> None:
    assert in_blocks([looked_at])
    with pytest.raises(ConfigurationError):
        in_blocks([after])
    with pytest.raises(ConfigurationError, match="line 2"):
        in_blocks([looked_at], [after])


def test_a_row_is_the_same_beside_one_whose_key_is_long() -> None:
    long, short = (spelled(key, '"t"').replace(b",", b", ") for key in ("\u9375" * 334, "a"))
    outcomes = [in_blocks(rows) for rows in ([long, short], [short, long])]
    assert {row.line() for row in outcomes[0]} == {row.line() for row in outcomes[1]} == {long, short}


def test_a_row_over_two_lines_becomes_one() -> None:
    for row in (spelled("a", '"t"').replace(b",", b",\n", 1), spelled("a", '\n"t"'), spelled("a", '"t"\n')):
        _, out = in_blocks([spelled("b", '"t"')], [row])
        assert out.line().count(b"\n") == 1
        assert json.loads(out.line()) == json.loads(row)


def test_files_of_text_are_read_like_files_of_bytes() -> None:
    content = '{"key": "a", "prompt": "\u00e9"}\n{"key": "b", "prompt": "x"}\n'
    expected = [row.key for row in normalise_rows(io.BytesIO(content.encode()), GENERATE)]
    spooled = tempfile.SpooledTemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115 - closed below
    with spooled, io.StringIO(content) as text:
        spooled.write(content)
        spooled.seek(0)
        assert [row.key for row in normalise_rows(spooled, GENERATE)] == expected
        assert [row.key for row in normalise_rows(text, GENERATE)] == expected


LINES = [
    b'{"key": "%d", "prompt": "text"}\n',
    b'{"key": "%d", "prompt": "Gr\xc3\xbc\xc3\x9fe \\u00e9\\n"}\n',
    b'{"prompt": "%d"}\n',
    b'{"key": "%d", "request": {"contents": [{"role": "user", "parts": [{"text": "t"}]}]}}\n',
    b"\n",
    b" \r\n",
    b'{"key": "%d", "request": {"contents": [{"parts": [{"text": "t"}]}], "generationConfig": {"topK": %d}}}\n',
    b'{"key": "%d", "request": {"contents": [{"parts": [{"text": "t"}]}], "generation_config": {"top_k": 1}}}\r\n',
    b'  {"key": "%d", "prompt": "t"}  \n',
    b'{"key": "same", "prompt": "t"}\n',
    b'{"key": "%d", "prompt": " "}\n',
    b'{"key": "%d", "prompt": "\xff"}\n',
    b'{"key": "%d",\n',
    b'{"key": "%d", "prompt": "a"}{"key": "x%d", "prompt": "b"}\n',
    b'{"key": "%d", "request": {"contents": [{"parts": [{"text": "\\u00e9"}]}], '
    b'"systemInstruction": {"parts": [{"text": "o"}]}}}\n',
    b'{"key": "%d", "request": {"contents": [{"parts": [{"text": "t"}]}], "systemInstruction": "own"}}\n',
    b'{"key":"%d","request":{"contents":[{"parts":[{"text":"t"}]}]},"key":"x%d"}\n',
    b'{"key": "%d", "request": {"contents": [{"parts": [{"text": "\xff", "text": "t"}]}]}}\n',
    b'{"key": "%d", "prompt": "\\u00e9 \\"request"}\n',
]


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.just(0), st.integers(0, len(LINES) - 1)), min_size=1, max_size=60),
    st.sampled_from([200, 1000, 1 << 18]),
    st.sampled_from(["gemini", "vertex_ai"]),
    st.sampled_from([None, "Be brief."]),
)
def test_rows_read_in_blocks_come_out_as_rows_read_one_by_one(
    chosen: list[int], block: int, backend: Any, instruction: str | None
) -> None:
    content = b"".join(LINES[kind].replace(b"%d", b"%d" % number) for number, kind in enumerate(chosen))

    settings = RowSettings(backend=backend, model="gemini-3.5-flash-lite", system_instruction=instruction)

    def outcome(size: int, rows: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK_BYTES", size)
            try:
                return [(row.key, row.number, row.line()) for row in normalise_rows(rows, settings)]
            except ConfigurationError as error:
                return str(error)

    one_by_one = outcome(1, content.splitlines(keepends=True))
    assert outcome(block, io.BytesIO(content)) == one_by_one
    assert outcome(block, content.splitlines(keepends=True)) == one_by_one


@pytest.mark.parametrize(
    "line",
    [
        '{"key": "a", "prompt": " \\n\\u3000"}',
        '{"key": "a", "prompt": ""}',
        '{"key": "a", "request": {"contents": [{"role": "", "parts": [{"text": "x"}]}]}}',
        '{"key": "a", "request": {"contents": [{"role": "user", "parts": [{"text": ""}]}]}}',
        '{"key": "a", "request": {"contents": []}}',
        '{"key": "a", "request": {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {"contents": 1}}}',
        '{"key": "a", "request": {"contents": [{"role": "user", "parts": [{"text": "x"}]}], "generationConfig": 3}}',
        '{"key": "", "prompt": "x"}',
        '{"key": "afgb:a", "prompt": "x"}',
    ],
)
def test_a_bad_row_that_looks_common_is_refused_by_its_own_key(line: str) -> None:
    with pytest.raises(ConfigurationError, match="line 1") as caught:
        list(normalise_rows([line.encode()], RowSettings()))
    assert "row-1" not in str(caught.value)
