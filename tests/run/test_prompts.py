# SPDX-License-Identifier: Apache-2.0
"""The template of a row: what it may use, how values show, and what its errors name."""

from __future__ import annotations

import datetime
import decimal

import pytest

from airflow_provider_gemini_batch.errors import ConfigurationError
from airflow_provider_gemini_batch.run.prompts import VARIABLES, Row, compile_template

COLUMNS = ("id", "items", "review", "day")


def render(source, *values, columns=COLUMNS, **variables):
    padded = [*values, *[None] * (len(columns) - len(values))]
    return compile_template(source, columns, variables).render(padded, 0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("text", "text"),
        (1, "1"),
        (1.10, "1.1"),
        (1e20, "1e+20"),
        (True, "True"),
        (None, ""),
        (decimal.Decimal("1.10"), "1.10"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.time(3, 4, 5), "03:04:05"),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
        (
            datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
            "2026-01-02T01:04:00+00:00",
        ),
    ],
)
@pytest.mark.parametrize("source", ["<{{ row.review }}>", "<{% if true %}{{ row.review }}{% endif %}>"])
def test_value_shows_alike_in_joined_and_in_jinja_templates(source, value, shown):
    assert render(source, "k", None, value) == f"<{shown}>"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("source", ["<{{ row.review }}>", "<{% if true %}{{ row.review }}{% endif %}>"])
def test_number_that_json_has_not_is_refused_and_not_shown(source, value):
    with pytest.raises(ConfigurationError, match=r"row 1: the prompt's template fails \(it uses review\).*is no value"):
        render(source, "k", None, value)


@pytest.mark.parametrize("source", ["a\n{{ row.id }}\n", "a\n{{ row.id }}{# x #}\n"])
def test_trailing_newline_is_kept(source):
    assert render(source, "k") == "a\nk\n"


def test_markup_is_not_escaped():
    assert render("{{ row.id }}{# by jinja #}", "<b>&") == "<b>&"


@pytest.mark.parametrize("source", ["{{ row.items }}", "{{ row['items'] }}", "{{ row.items | upper }}"])
def test_column_called_as_a_method_is_the_column(source):
    assert render(source, "k", "value").lower() == "value"


def test_row_is_iterated_by_its_columns():
    assert render("{% for name in row %}{{ name }}={{ row[name] }};{% endfor %}", 1, 2, 3, 4) == (
        "id=1;items=2;review=3;day=4;"
    )


def test_row_knows_which_columns_it_has():
    assert "id" in Row({"id": 0}, ["x"])
    assert "other" not in Row({"id": 0}, ["x"])


def test_variables_are_known():
    assert render("{{ params.style }} {{ ds }}", params={"style": "dry"}, ds="2026-01-02") == "dry 2026-01-02"


@pytest.mark.parametrize("name", ["ti", "ts", "now", "try_number", "conn", "dag_run", "macros"])
def test_name_that_changes_between_attempts_is_refused(name):
    with pytest.raises(ConfigurationError, match=rf"uses '{name}': it differs between attempts"):
        compile_template(f"{{{{ {name} }}}}", COLUMNS, dict.fromkeys(VARIABLES))


def test_column_without_row_is_told_how_to_write_it():
    with pytest.raises(ConfigurationError, match=r"write \{\{ row.review \}\}"):
        compile_template("{{ review }}", COLUMNS)


def test_unknown_column_is_told_with_those_there_are():
    with pytest.raises(
        ConfigurationError, match="uses the column reviw, which the input does not have; it has id, items"
    ):
        compile_template("{{ row.reviw }}", COLUMNS)


def test_syntax_error_names_the_line():
    with pytest.raises(ConfigurationError, match="prompt: line 2"):
        compile_template("a\n{{ row.id", COLUMNS)


@pytest.mark.parametrize("source", ["Say {review}", "Say {row.review}", "Say { row.review } {nothing}"])
def test_column_in_single_braces_is_told_how_to_write_it(source):
    with pytest.raises(ConfigurationError, match=r"shows no column: \{review\} .* write \{\{ row.review \}\}"):
        compile_template(source, COLUMNS)
    assert render(source + "{{ row.id }}", "k") == source + "k"


def test_failing_template_names_row_key_and_columns():
    template = compile_template("{{ row.review + 1 }}", COLUMNS)
    with pytest.raises(ConfigurationError, match=r"row 900001 \(key 'k9'\): the prompt's template fails.* review"):
        template.render(["k9", None, "text", None], 900_000, "k9")


def test_empty_prompt_is_refused_with_its_row():
    with pytest.raises(ConfigurationError, match=r"row 1 \(key 'k'\): the prompt is empty"):
        compile_template("{{ row.review }}", COLUMNS).render(["k", None, " ", None], 0, "k")


def test_prompt_beyond_20_mb_is_refused():
    with pytest.raises(ConfigurationError, match="more than 20,000,000 bytes"):
        render("{{ row.review }}", "k", None, "x" * 20_000_001)


@pytest.mark.parametrize("source", ["{{ row.__class__ }}", "{{ row.id.__class__.__mro__ }}", "{{ row.id.__init__ }}"])
def test_sandbox_holds(source):
    with pytest.raises(ConfigurationError):
        render(source, "k")


@pytest.mark.parametrize("source", ["{{ [1, 2] | random }}", "{{ lipsum() }}"])
def test_chance_has_no_place(source):
    with pytest.raises(ConfigurationError):
        render(source)


def test_binary_column_cannot_be_text():
    with pytest.raises(ConfigurationError, match="binary column"):
        render("{{ row.review }}", "k", None, b"\x00")


def test_used_columns_are_found():
    template = compile_template("{{ row.review }} {{ row['id'] }}", COLUMNS)
    assert (template.used, template.uses_whole_row) == (("id", "review"), False)


@pytest.mark.parametrize("source", ["{{ row[params.c] }}", "{% for c in row %}x{% endfor %}", "{% set r = row %}x"])
def test_use_of_the_whole_row_is_found(source):
    assert compile_template(source, COLUMNS, {"params": {"c": "id"}}).uses_whole_row


def test_names_that_change_with_the_night_are_found():
    template = compile_template("{{ ds }} {{ params.x }} {{ row.id }}", COLUMNS, dict.fromkeys(VARIABLES))
    assert template.changing == ("ds",)


@pytest.mark.parametrize(
    "source", ["Rate {{ row.review }} of {{ row.day }}", "Rate {{- row['review'] }}, {{ row.day }}"]
)
def test_row_with_nothing_but_nulls_to_show_is_refused(source):
    template = compile_template(source, COLUMNS)
    template.check_filled(["k", None, None, "today"], 0)
    with pytest.raises(ConfigurationError, match=r"row 8 \(key 'k'\): the columns review, day are all null"):
        template.check_filled(["k", "kept", None, None], 7, "k")


@pytest.mark.parametrize(
    "source", ["{{ row.review or 'none' }}", "{% if row.review %}{{ row.review }}{% else %}none{% endif %}", "Say hi"]
)
def test_template_that_says_what_null_means_is_not_judged(source):
    compile_template(source, COLUMNS).check_filled([None] * 4, 0)
