# SPDX-License-Identifier: Apache-2.0
"""What README and ``docs/`` list is what there is: arguments with defaults, connection fields, members of results."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_gemini_batch import operators
from airflow_provider_gemini_batch.api.models import BatchJob
from airflow_provider_gemini_batch.api.states import JobState
from airflow_provider_gemini_batch.connection.form import DEFAULT_CONNECTION_ID, EXTRA_FIELDS
from airflow_provider_gemini_batch.connection.reading import settings_from_connection
from airflow_provider_gemini_batch.get_provider_info import get_provider_info
from airflow_provider_gemini_batch.landing.join import land
from airflow_provider_gemini_batch.operators.base import GeminiBatchOperator
from airflow_provider_gemini_batch.operators.run_arguments import RunArguments
from airflow_provider_gemini_batch.operators.submit_arguments import SubmitArguments
from airflow_provider_gemini_batch.rows.result_row import ResultRow
from airflow_provider_gemini_batch.sensors import BatchJobSensor
from gemini_batch_emulator.pytest_plugin import EmulatorHandle

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS: dict[str, type[Any]] = {
    "Every operator": GeminiBatchOperator,
    "CreateBatchOperator and CreateEmbeddingBatchOperator": SubmitArguments,
    "RunBatchOperator and RunEmbeddingBatchOperator": RunArguments,
    "BatchJobSensor": BatchJobSensor,
    **{name: getattr(operators, name) for name in operators.__all__},
}
KEPT_AS = {"task_type": "embed_task_type"}
"""Arguments whose attribute has another name; templates are found by the attribute's."""


def tables(path: Path) -> dict[str, list[list[str]]]:
    """Return the first table of each section, as cells of its rows without the head."""
    found: dict[str, list[list[str]]] = {}
    for section in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        table = re.search(r"(?:^\|.*\n?)+", body, flags=re.MULTILINE)
        lines = table[0].splitlines()[2:] if table else []
        found[title] = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return found


def names_in(cells: list[str]) -> list[str]:
    """Return what stands in backticks in the first of *cells*."""
    return re.findall(r"`([\w.]+)", cells[0])


def own_arguments(cls: type[Any]) -> dict[str, Any]:
    """Return the arguments that *cls* itself adds, with their defaults."""
    if "__init__" not in vars(cls):
        return {}
    parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
    return {each.name: each.default for each in parameters if each.kind is not each.VAR_KEYWORD}


def shown(name: str, default: Any) -> str:
    if name == "deferrable":
        return "`[operators] default_deferrable`"
    if default is inspect.Parameter.empty:
        return "-"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default!r}`"


@pytest.mark.parametrize("section", SECTIONS)
def test_arguments_are_listed_with_their_defaults(root: Path, section: str) -> None:
    listed = {cells[0].strip("`"): cells[1] for cells in tables(root / "docs/operators.md")[section]}
    own = own_arguments(SECTIONS[section])
    assert listed == {name: shown(name, default) for name, default in own.items()}


@pytest.mark.parametrize("section", SECTIONS)
def test_templated_arguments_are_marked(root: Path, section: str) -> None:
    cls = SECTIONS[section]
    for name, _, mark, *_ in tables(root / "docs/operators.md")[section]:
        argument = name.strip("`")
        assert (mark == "T") == (KEPT_AS.get(argument, argument) in tuple(cls.template_fields)), argument


def test_every_class_has_its_section(root: Path) -> None:
    assert set(tables(root / "docs/operators.md")) == set(SECTIONS)


def test_every_class_is_in_the_table_of_needs(root: Path) -> None:
    text = (root / "docs/operators.md").read_text(encoding="utf-8")
    needs = text[: text.index("## Every operator")]
    assert set(operators.__all__) | {"BatchJobSensor", "GeminiBatchHook"} <= set(re.findall(r"`(\w+)", needs))


def test_every_connection_field_is_listed(root: Path) -> None:
    words = [word for cells in tables(root / "docs/connection.md")["Fields"] for word in re.findall(r"\w+", cells[0])]
    assert sorted(set(words) - {"extra"}) == sorted(["password", "host", *EXTRA_FIELDS])


def test_the_commands_that_add_a_connection_make_one_for_the_backend_they_speak_of(root: Path) -> None:
    from airflow.cli import cli_parser

    pages = ("connection", "testing")
    text = "".join((root / f"docs/{name}.md").read_text(encoding="utf-8") for name in pages)
    blocks = re.findall(r"^```bash\nairflow (connections add .+?)^```", text, flags=re.MULTILINE | re.DOTALL)
    settings = []
    for block in blocks:
        given = cli_parser.get_parser().parse_args(shlex.split(block.replace("\\\n", "")))
        assert given.conn_id == DEFAULT_CONNECTION_ID
        settings.append(
            settings_from_connection(
                conn_type=given.conn_type,
                host=given.conn_host,
                password=given.conn_password,
                extra=json.loads(given.conn_extra or "{}"),
            )
        )
    assert [(each.backend, each.is_anonymous) for each in settings] == [
        ("gemini", False),
        ("vertex_ai", False),
        ("vertex_ai", True),
    ]


def test_every_option_of_the_configuration_is_listed(root: Path) -> None:
    options = get_provider_info()["config"]["gemini_batch"]["options"]
    text = (root / "docs/connection.md").read_text(encoding="utf-8")
    for name, option in options.items():
        assert f"| `{name}` | {option['default'] or 'empty'} |" in text


def test_members_of_rows_manifest_and_summary_are_listed(root: Path, tmp_path: Path) -> None:
    found = {
        title: [name for cells in rows for name in names_in(cells)]
        for title, rows in tables(root / "docs/results.md").items()
    }
    row = ResultRow.missing("a")
    row.cost = None  # told where answers are priced, as DownloadResultsOperator does
    assert found["Result rows"] == list(json.loads(row.line()))
    manifest = land([], tmp_path / "out.jsonl")
    assert sorted(found["The manifest"]) == sorted(manifest.to_json())
    assert found["The job summary"] == list(BatchJob("batches/a").summary())
    text = (root / "docs/results.md").read_text(encoding="utf-8")
    assert all(f"`{state}`" in text for state in JobState)


def test_everything_the_fixture_can_do_is_listed(root: Path) -> None:
    text = (root / "docs/testing.md").read_text(encoding="utf-8")
    can = {name for name in vars(EmulatorHandle) if not name.startswith("_")}
    listed = [name for cells in tables(root / "docs/testing.md")["In pytest"] for name in names_in(cells)]
    assert sorted(listed) == sorted(can)
    for name, words in re.findall(r"`(\w+)\((.*?)\)`", text):
        parameters = list(inspect.signature(getattr(EmulatorHandle, name)).parameters.values())[1:]
        assert [word.split("=")[0].strip("* ") for word in words.split(",") if word] == [
            each.name for each in parameters
        ]


def test_the_pytest_example_passes_as_printed(root: Path, tmp_path: Path) -> None:
    text = (root / "docs/testing.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "test_example.py").write_text(example, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1 passed" in done.stdout


def test_every_example_is_listed(root: Path) -> None:
    listed = re.findall(r"^\| `(\w+\.py)` \|", (root / "docs/examples.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (root / "example_dags").glob("*.py"))


def test_readme_is_short(root: Path) -> None:
    assert len((root / "README.md").read_text(encoding="utf-8").split()) < 700


def _measured(results: str, name: str) -> list[float]:
    """Return the first figure of ours, and that of Google's operators."""
    [line] = [line for line in results.splitlines() if line.startswith(f"| {name} |")]
    return [float(re.findall(r"[0-9][0-9.,]*", cell)[0].replace(",", "")) for cell in line.split(" | ")[1:3]]


def test_the_comparisons_figures_are_the_measured_ones(root: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    bench = (root / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    chaos = (root / "tests" / "system" / "chaos" / "RESULTS.md").read_text(encoding="utf-8")
    needed, theirs, ours = re.findall(r"^\| all +\| +\| ([0-9]+) .*?\| ([0-9]+)/.*?\| ([0-9]+)/", chaos, re.MULTILINE)[
        0
    ]
    assert f"jobs billed for {needed} needed, with workers killed and replies lost | - | {theirs} | {ours} |" in readme
    microseconds, milliseconds = _measured(bench, "1,000 watched jobs: CPU for each job and round")
    assert f"| {milliseconds:g} ms | {microseconds / 1000:.2f} ms |" in readme
    for name, unit in (
        ("1,000 watched jobs: HTTP requests in a round", ""),
        ("512 MB of results brought into a file: peak memory over the start", " MB"),
        ("install into an Airflow environment: size added", " MB"),
    ):
        mine, other = _measured(bench, name)
        assert f"| {other:,.0f}{unit} | {mine:.0f}{unit} |" in readme


def test_links_lead_to_files_and_headings(root: Path) -> None:
    for page in [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, heading = target.partition("#")
            to = page.parent / path if path else page
            assert to.exists(), f"{page.name}: {target}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", to.read_text(encoding="utf-8"), flags=re.MULTILINE)
                assert heading in [title.lower().replace(" ", "-") for title in titles], f"{page.name}: {target}"
