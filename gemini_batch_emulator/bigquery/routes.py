# SPDX-License-Identifier: Apache-2.0
"""
BigQuery below ``/bigquery/v2/projects/{project}``: ``datasets`` (insert, get), ``datasets/{d}/tables`` (insert, list,
get, delete), ``.../{t}/insertAll`` and ``.../{t}/data`` (pages in the ``f``/``v`` form).
"""

# Not served: queries, jobs, views.
#
# Source: https://bigquery.googleapis.com/discovery/v1/apis/bigquery/v2/rest.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from gemini_batch_emulator.bigquery.store import BigQueryError, Table, TableStore, cell, table_store
from gemini_batch_emulator.replies import base_url, read_json, reply
from gemini_batch_emulator.token.desk import require_caller

if TYPE_CHECKING:
    from starlette.requests import Request

    from gemini_batch_emulator.state import EmulatorState


class BigQuery:
    """Handlers."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """The routes."""
        root = "/bigquery/v2/projects/{project}/datasets"
        tables = root + "/{dataset}/tables"
        table = tables + "/{table}"
        name = "bigquery"
        return [
            Route(root, self.create_dataset, methods=["POST"], name=f"{name}.datasets.create"),
            Route(root + "/{dataset}", self.get_dataset, methods=["GET"], name=f"{name}.datasets.get"),
            Route(tables, self.list_tables, methods=["GET"], name=f"{name}.tables.list"),
            Route(tables, self.create_table, methods=["POST"], name=f"{name}.tables.create"),
            Route(table, self.get_table, methods=["GET"], name=f"{name}.tables.get"),
            Route(table, self.delete_table, methods=["DELETE"], name=f"{name}.tables.delete"),
            Route(table + "/insertAll", self.insert_all, methods=["POST"], name=f"{name}.rows.insert"),
            Route(table + "/data", self.data, methods=["GET"], name=f"{name}.rows.list"),
        ]

    # Where a call goes to -------------------------------------------------------------------------------------------

    def _store(self, request: Request) -> TableStore:
        require_caller(self._state, request)
        return table_store(self._state)

    def _dataset(self, request: Request) -> tuple[str, str]:
        store = self._store(request)
        project, dataset = request.path_params["project"], request.path_params["dataset"]
        if not store.has_dataset(project, dataset):
            raise BigQueryError(404, f"Not found: Dataset {project}:{dataset}")
        return project, dataset

    def _table(self, request: Request) -> Table:
        project, dataset = self._dataset(request)
        name = request.path_params["table"]
        table = table_store(self._state).tables.get((project, dataset, name))
        if table is None:
            raise BigQueryError(404, f"Not found: Table {project}:{dataset}.{name}")
        return table

    # Datasets and tables --------------------------------------------------------------------------------------------

    async def create_dataset(self, request: Request) -> Response:
        """Make a dataset."""
        store = self._store(request)
        project = request.path_params["project"]
        body = await read_json(request)
        dataset = str((body.get("datasetReference") or {}).get("datasetId") or "")
        if not re.fullmatch(r"\w+", dataset):
            raise BigQueryError(400, f'Invalid dataset ID "{dataset}".')
        # The one that is there from the start is in no list, so that a client may make it.
        if (project, dataset) in store.datasets:
            raise BigQueryError(409, f"Already Exists: Dataset {project}:{dataset}")
        store.create_dataset(project, dataset, str(body.get("location") or "us-central1"))
        return reply(self._state, request, self._dataset_resource(project, dataset))

    async def get_dataset(self, request: Request) -> Response:
        """One dataset."""
        return reply(self._state, request, self._dataset_resource(*self._dataset(request)))

    def _dataset_resource(self, project: str, dataset: str) -> dict[str, Any]:
        return {
            "kind": "bigquery#dataset",
            "id": f"{project}:{dataset}",
            "datasetReference": {"projectId": project, "datasetId": dataset},
            "location": table_store(self._state).datasets.get((project, dataset), "us-central1"),
        }

    async def create_table(self, request: Request) -> Response:
        """Make a table."""
        project, dataset = self._dataset(request)
        store = table_store(self._state)
        body = await read_json(request)
        name = str((body.get("tableReference") or {}).get("tableId") or "")
        if not name:
            raise BigQueryError(400, "Required parameter is missing: tableId")
        if (project, dataset, name) in store.tables:
            raise BigQueryError(409, f"Already Exists: Table {project}:{dataset}.{name}")
        fields = (body.get("schema") or {}).get("fields") or []
        table = store.create_table(project, dataset, name, schema=fields)
        return reply(self._state, request, _table_resource(table, base_url(request)))

    async def list_tables(self, request: Request) -> Response:
        """The tables of a dataset."""
        place = self._dataset(request)
        here = [table for key, table in sorted(table_store(self._state).tables.items()) if key[:2] == place]
        listing: dict[str, Any] = {"kind": "bigquery#tableList", "totalItems": len(here)}
        if here:
            listing["tables"] = [
                {
                    "kind": "bigquery#table",
                    "id": f"{table.project}:{table.dataset}.{table.name}",
                    "tableReference": _reference(table),
                    "type": "TABLE",
                }
                for table in here
            ]
        return reply(self._state, request, listing)

    async def get_table(self, request: Request) -> Response:
        """One table."""
        return reply(self._state, request, _table_resource(self._table(request), base_url(request)))

    async def delete_table(self, request: Request) -> Response:
        """Remove a table."""
        table = self._table(request)
        del table_store(self._state).tables[(table.project, table.dataset, table.name)]
        return Response(status_code=204)

    # Rows -----------------------------------------------------------------------------------------------------------

    async def insert_all(self, request: Request) -> Response:
        """Append rows."""
        table = self._table(request)
        body = await read_json(request)
        known = {column["name"] for column in table.schema}
        errors = []
        rows = [entry.get("json") or {} for entry in body.get("rows") or ()]
        for index, row in enumerate(rows):
            unknown = sorted(set(row) - known)
            if unknown and not body.get("ignoreUnknownValues"):
                problem = {"reason": "invalid", "location": unknown[0], "message": f"no such field: {unknown[0]}."}
                errors.append({"index": index, "errors": [problem]})
        answer: dict[str, Any] = {"kind": "bigquery#tableDataInsertAllResponse"}
        if errors:
            answer["insertErrors"] = errors
        # Documented: one bad row refuses all of them, with HTTP 200 and the errors in the body.
        if errors and not body.get("skipInvalidRows"):
            return reply(self._state, request, answer)
        bad = {entry["index"] for entry in errors}
        table.rows.extend(
            {name: value for name, value in row.items() if name in known}
            for index, row in enumerate(rows)
            if index not in bad
        )
        return reply(self._state, request, answer)

    async def data(self, request: Request) -> Response:
        """One page of a table's rows."""
        table = self._table(request)
        query = request.query_params
        try:
            start = int(query.get("pageToken") or query.get("startIndex") or 0)
            limit = min(int(query.get("maxResults") or 10_000), 100_000)
        except ValueError:
            raise BigQueryError(400, "Invalid pageToken, startIndex or maxResults.") from None
        wanted = [name for name in query.get("selectedFields", "").split(",") if name]
        columns = [column for column in table.schema if not wanted or column["name"] in wanted]
        # Without it the service writes a timestamp as a float of seconds, which loses microseconds.
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
                {"f": [{"v": cell(row.get(column["name"]), column, microseconds=microseconds)} for column in columns]}
                for row in page
            ]
        return reply(self._state, request, answer)


def _reference(table: Table) -> dict[str, str]:
    return {"projectId": table.project, "datasetId": table.dataset, "tableId": table.name}


def _table_resource(table: Table, base: str) -> dict[str, Any]:
    milliseconds = str(int(table.created * 1000))
    return {
        "kind": "bigquery#table",
        "etag": f"{milliseconds}-{len(table.rows)}",
        "id": f"{table.project}:{table.dataset}.{table.name}",
        "selfLink": f"{base}/bigquery/v2/projects/{table.project}/datasets/{table.dataset}/tables/{table.name}",
        "tableReference": _reference(table),
        "schema": {"fields": table.schema},
        "numRows": str(len(table.rows)),
        "numBytes": str(sum(len(str(row)) for row in table.rows)),
        "creationTime": milliseconds,
        "lastModifiedTime": milliseconds,
        "type": "TABLE",
        "location": table.location,
    }


def routes(state: EmulatorState) -> list[Route]:
    """The routes."""
    return BigQuery(state).routes()
