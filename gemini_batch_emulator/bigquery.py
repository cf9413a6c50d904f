# SPDX-License-Identifier: Apache-2.0
"""
The part of BigQuery that batch jobs need: tables to read rows from and to write results to, kept in memory.

Served below ``/bigquery/v2/projects/{project}``: ``datasets`` (insert, get), ``datasets/{d}/tables`` (insert, list,
get, delete), ``.../{t}/insertAll`` and ``.../{t}/data`` (pages in the ``f``/``v`` form). Not served:
queries, jobs, views.

A dataset exists once created; ``emulator`` is there in every project from the start. Knob in ``Config.extra``:
``bigquery_any_dataset`` (default False): every dataset exists.

Source: https://bigquery.googleapis.com/discovery/v1/apis/bigquery/v2/rest.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from gemini_batch_emulator.core import GoogleError, read_json, reply
from gemini_batch_emulator.token import require_caller

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

    from gemini_batch_emulator.core import EmulatorState

_REASONS = {400: "invalid", 403: "accessDenied", 404: "notFound", 409: "duplicate"}


class BigQueryError(GoogleError):
    """An error reply as BigQuery writes it: both ``errors`` and ``status``."""

    def __init__(self, status: int, message: str) -> None:
        detail = {"message": message, "domain": "global", "reason": _REASONS.get(status, "invalid")}
        super().__init__(status, message, errors=[detail])

    def body(self) -> dict[str, Any]:
        """Return the reply's JSON."""
        body = super().body()
        body["error"]["status"] = self.status
        return body


@dataclass
class Table:
    """
    A table.

    :param schema: ``{"name", "type", "mode"}`` a column.
    :param rows: One dict a row; an absent column is NULL. A column of type JSON holds JSON text.
    """

    project: str
    dataset: str
    name: str
    created: float
    schema: list[dict[str, str]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    location: str = "us-central1"


class TableStore:
    """Datasets and tables."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state
        self.lock = threading.RLock()
        self.datasets: dict[tuple[str, str], str] = {}
        self.tables: dict[tuple[str, str, str], Table] = {}

    def has_dataset(self, project: str, dataset: str) -> bool:
        """Whether a dataset exists."""
        if dataset == "emulator" or self._state.config.extra.get("bigquery_any_dataset"):
            return True
        return (project, dataset) in self.datasets

    def create_dataset(self, project: str, dataset: str, location: str = "us-central1") -> None:
        """Make a dataset; one that exists stays as it is."""
        self.datasets.setdefault((project, dataset), location)

    def create_table(
        self,
        project: str,
        dataset: str,
        name: str,
        *,
        schema: list[dict[str, str]] | None = None,
        rows: Iterable[dict[str, Any]] = (),
    ) -> Table:
        """
        Make a table, and its dataset where there is none.

        :param schema: Columns; taken from the first rows' members (all STRING but ``request``, JSON) unless given.
        """
        self.create_dataset(project, dataset)
        kept = list(rows)
        if schema is None:
            names = dict.fromkeys(column for row in kept for column in row)
            schema = [{"name": column, "type": "JSON" if column == "request" else "STRING"} for column in names]
        table = Table(project, dataset, name, self._state.now(), [_column(entry) for entry in schema], kept)
        with self.lock:
            self.tables[(project, dataset, name)] = table
        return table

    def find(self, uri: str) -> Table | None:
        """Return the table of ``bq://project.dataset.table``, None if there is none."""
        parts = split_table(uri)
        return self.tables.get(parts) if parts else None


def table_store(state: EmulatorState) -> TableStore:
    """Return the store of *state*; a new, empty one after a reset."""
    return state.room("bigquery", lambda: TableStore(state))


def split_table(uri: str) -> tuple[str, str, str] | None:
    """``bq://project.dataset.table`` -> its parts, None for anything else; a project may hold ``domain.com:``."""
    match = re.fullmatch(r"bq://([^.]+(?:\.[^.:]+:[^.]+)?)\.([^.]+)\.([^.]+)", uri)
    return (match[1], match[2], match[3]) if match else None


def _column(entry: dict[str, Any]) -> dict[str, str]:
    kind = str(entry.get("type", "STRING")).upper()
    return {"name": str(entry["name"]), "type": kind, "mode": str(entry.get("mode", "NULLABLE")).upper()}


def _cell(value: Any, column: dict[str, str], *, microseconds: bool) -> Any:
    """A value in the ``v`` of a row."""
    if column["mode"] == "REPEATED":
        single = {**column, "mode": "NULLABLE"}
        return [{"v": _cell(entry, single, microseconds=microseconds)} for entry in value or ()]
    if value is None:
        return None
    kind = column["type"]
    if kind == "TIMESTAMP":
        when = value
        if isinstance(value, str):
            when = datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
        return str(int(when * 1_000_000)) if microseconds else repr(float(when))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return str(value)


def routes(state: EmulatorState) -> list[Route]:
    """The routes of BigQuery."""

    def place(request: Request) -> tuple[str, str]:
        project, dataset = request.path_params["project"], request.path_params["dataset"]
        if not table_store(state).has_dataset(project, dataset):
            raise BigQueryError(404, f"Not found: Dataset {project}:{dataset}")
        return project, dataset

    def found(request: Request) -> Table:
        project, dataset = place(request)
        name = request.path_params["table"]
        table = table_store(state).tables.get((project, dataset, name))
        if table is None:
            raise BigQueryError(404, f"Not found: Table {project}:{dataset}.{name}")
        return table

    def reference(table: Table) -> dict[str, str]:
        return {"projectId": table.project, "datasetId": table.dataset, "tableId": table.name}

    def resource(request: Request, table: Table) -> dict[str, Any]:
        milliseconds = str(int(table.created * 1000))
        base = str(request.base_url).rstrip("/")
        return {
            "kind": "bigquery#table",
            "etag": f"{milliseconds}-{len(table.rows)}",
            "id": f"{table.project}:{table.dataset}.{table.name}",
            "selfLink": f"{base}/bigquery/v2/projects/{table.project}/datasets/{table.dataset}/tables/{table.name}",
            "tableReference": reference(table),
            "schema": {"fields": table.schema},
            "numRows": str(len(table.rows)),
            "numBytes": str(sum(len(str(row)) for row in table.rows)),
            "creationTime": milliseconds,
            "lastModifiedTime": milliseconds,
            "type": "TABLE",
            "location": table.location,
        }

    async def datasets(request: Request) -> Response:
        require_caller(state, request)
        project = request.path_params["project"]
        body = await read_json(request)
        dataset = str((body.get("datasetReference") or {}).get("datasetId") or "")
        if not re.fullmatch(r"\w+", dataset):
            raise BigQueryError(400, f'Invalid dataset ID "{dataset}".')
        if (project, dataset) in table_store(state).datasets:
            raise BigQueryError(409, f"Already Exists: Dataset {project}:{dataset}")
        table_store(state).create_dataset(project, dataset, str(body.get("location") or "us-central1"))
        return reply(state, request, dataset_resource(project, dataset))

    def dataset_resource(project: str, dataset: str) -> dict[str, Any]:
        return {
            "kind": "bigquery#dataset",
            "id": f"{project}:{dataset}",
            "datasetReference": {"projectId": project, "datasetId": dataset},
            "location": table_store(state).datasets.get((project, dataset), "us-central1"),
        }

    async def one_dataset(request: Request) -> Response:
        require_caller(state, request)
        return reply(state, request, dataset_resource(*place(request)))

    async def tables(request: Request) -> Response:
        require_caller(state, request)
        project, dataset = place(request)
        store = table_store(state)
        if request.method == "POST":
            body = await read_json(request)
            name = str((body.get("tableReference") or {}).get("tableId") or "")
            if not name:
                raise BigQueryError(400, "Required parameter is missing: tableId")
            if (project, dataset, name) in store.tables:
                raise BigQueryError(409, f"Already Exists: Table {project}:{dataset}.{name}")
            fields = (body.get("schema") or {}).get("fields") or []
            return reply(state, request, resource(request, store.create_table(project, dataset, name, schema=fields)))
        here = [table for key, table in sorted(store.tables.items()) if key[:2] == (project, dataset)]
        listing: dict[str, Any] = {"kind": "bigquery#tableList", "totalItems": len(here)}
        if here:
            listing["tables"] = [
                {
                    "kind": "bigquery#table",
                    "id": f"{table.project}:{table.dataset}.{table.name}",
                    "tableReference": reference(table),
                    "type": "TABLE",
                }
                for table in here
            ]
        return reply(state, request, listing)

    async def one_table(request: Request) -> Response:
        require_caller(state, request)
        table = found(request)
        if request.method == "DELETE":
            del table_store(state).tables[(table.project, table.dataset, table.name)]
            return Response(status_code=204)
        return reply(state, request, resource(request, table))

    async def insert_all(request: Request) -> Response:
        require_caller(state, request)
        table = found(request)
        body = await read_json(request)
        known = {column["name"] for column in table.schema}
        errors = []
        rows = [entry.get("json") or {} for entry in body.get("rows") or ()]
        for index, row in enumerate(rows):
            unknown = sorted(set(row) - known)
            if unknown and not body.get("ignoreUnknownValues"):
                problem = {"reason": "invalid", "location": unknown[0], "message": f"no such field: {unknown[0]}."}
                errors.append({"index": index, "errors": [problem]})
        if errors and not body.get("skipInvalidRows"):
            return reply(state, request, {"kind": "bigquery#tableDataInsertAllResponse", "insertErrors": errors})
        bad = {entry["index"] for entry in errors}
        table.rows.extend(
            {name: value for name, value in row.items() if name in known}
            for index, row in enumerate(rows)
            if index not in bad
        )
        answer: dict[str, Any] = {"kind": "bigquery#tableDataInsertAllResponse"}
        if errors:
            answer["insertErrors"] = errors
        return reply(state, request, answer)

    async def data(request: Request) -> Response:
        require_caller(state, request)
        table = found(request)
        query = request.query_params
        try:
            start = int(query.get("pageToken") or query.get("startIndex") or 0)
            limit = min(int(query.get("maxResults") or 10_000), 100_000)
        except ValueError:
            raise BigQueryError(400, "Invalid pageToken, startIndex or maxResults.") from None
        wanted = [name for name in query.get("selectedFields", "").split(",") if name]
        columns = [column for column in table.schema if not wanted or column["name"] in wanted]
        microseconds = query.get("formatOptions.useInt64Timestamp") == "true"
        page = table.rows[start : start + limit]
        answer: dict[str, Any] = {
            "kind": "bigquery#tableDataList",
            "etag": f"{int(table.created)}-{len(table.rows)}",
            "totalRows": str(len(table.rows)),
        }
        if start + len(page) < len(table.rows):
            answer["pageToken"] = str(start + len(page))
        if page:
            answer["rows"] = [
                {"f": [{"v": _cell(row.get(column["name"]), column, microseconds=microseconds)} for column in columns]}
                for row in page
            ]
        return reply(state, request, answer)

    root = "/bigquery/v2/projects/{project}/datasets"
    return [
        Route(root, datasets, methods=["POST"]),
        Route(root + "/{dataset}", one_dataset, methods=["GET"]),
        Route(root + "/{dataset}/tables", tables, methods=["GET", "POST"]),
        Route(root + "/{dataset}/tables/{table}", one_table, methods=["GET", "DELETE"]),
        Route(root + "/{dataset}/tables/{table}/insertAll", insert_all, methods=["POST"]),
        Route(root + "/{dataset}/tables/{table}/data", data, methods=["GET"]),
    ]
