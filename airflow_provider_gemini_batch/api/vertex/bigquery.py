# SPDX-License-Identifier: Apache-2.0
"""Read the rows of a BigQuery table, for jobs whose answers lie in one."""

# Tables are read by `tabledata.list`, page by page; no query is run, so nothing is billed. For tables of many gigabytes
# Google's own client with the Storage Read API is the better tool.
#
# Source: https://bigquery.googleapis.com/discovery/v1/apis/bigquery/v2/rest (tables.get, tabledata.list).

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from airflow_provider_gemini_batch.api.flows import Pages, exchange
from airflow_provider_gemini_batch.api.replies import expect_success, whole_number
from airflow_provider_gemini_batch.api.wire import Flow, HttpReply, HttpRequest
from airflow_provider_gemini_batch.connection.urls import other_server_hint
from airflow_provider_gemini_batch.errors import (
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    ReplyFormatError,
)

if TYPE_CHECKING:
    from airflow_provider_gemini_batch.api.retry import RetryPolicy

PAGE_ROWS = 1000
"""Rows asked for at once; the service also ends a page at about 10 MB."""

_TABLE = re.compile(r"bq://((?:[a-z0-9.-]+:)?[a-z0-9-]+)\.([\w-]+)\.([^./?#\s]+)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JSON_TEXT = ("request", "response", "predictions")


@dataclass(frozen=True)
class Table:
    """
    A table.

    :param uri: ``bq://project.dataset.table``.
    :param columns: ``{"name", "type", "mode", "fields"}`` a column, as BigQuery writes it.
    :param row_count: Rows, without those still in a streaming buffer; None if not told.
    """

    uri: str
    columns: tuple[Mapping[str, Any], ...]
    row_count: int | None = None


@dataclass(frozen=True)
class RowPage:
    """One page of rows, a dictionary each, in no particular order."""

    rows: tuple[dict[str, Any], ...] = ()
    next_page_token: str | None = None


def parse_table_uri(uri: str) -> tuple[str, str, str]:
    """
    Split ``bq://project.dataset.table``.

    :raises ConfigurationError: If it is no such name.
    """
    match = _TABLE.fullmatch(str(uri or "").strip())
    if match is None:
        raise ConfigurationError(f"Not a BigQuery table: {uri!r}. It has to look like bq://project.dataset.table.")
    return match[1], match[2], match[3]


class BigQuery:
    """
    Calls of BigQuery.

    :param base_url: E.g. ``https://bigquery.googleapis.com``.
    """

    def __init__(self, base_url: str) -> None:
        self._base = base_url.rstrip("/")

    def get_table(self, uri: str) -> HttpRequest:
        """Build the read of a table."""
        return HttpRequest("GET", self._url(uri), about=f"table {uri}")

    def list_rows(self, uri: str, page_token: str | None = None, page_size: int = PAGE_ROWS) -> HttpRequest:
        """Build the call for one page of rows; timestamps come in whole microseconds."""
        # Without useInt64Timestamp a timestamp comes as a float of seconds in scientific notation, which loses
        # microseconds.
        params = [("maxResults", str(page_size)), ("formatOptions.useInt64Timestamp", "true")]
        if page_token:
            params.append(("pageToken", page_token))
        return HttpRequest("GET", f"{self._url(uri)}/data", tuple(params), about=f"table {uri}")

    def read_table(self, reply: HttpReply) -> Table:
        """Read a table's description."""
        body = expect_success(reply).json_object()
        place = body.get("tableReference")
        columns = (body.get("schema") or {}).get("fields") or []
        if not isinstance(place, Mapping) or not all(
            place.get(f"{part}Id") for part in ("project", "dataset", "table")
        ):
            raise ReplyFormatError("BigQuery described a table without its name.", excerpt=reply.excerpt())
        uri = f"bq://{place['projectId']}.{place['datasetId']}.{place['tableId']}"
        return Table(uri, tuple(columns), whole_number(body.get("numRows")))

    def read_rows(self, reply: HttpReply, table: Table) -> RowPage:
        """Read one page; a column of type JSON is decoded, a TIMESTAMP becomes RFC 3339, NUMERIC stays text."""
        body = expect_success(reply).json_object()
        try:
            rows = tuple(_record(row, table.columns) for row in body.get("rows") or ())
        except (KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
            raise ReplyFormatError(
                f"BigQuery's rows of {table.uri} do not fit its columns: {error}", excerpt=reply.excerpt()
            ) from error
        return RowPage(rows, body.get("pageToken") or None)

    def table(self, uri: str, retry: RetryPolicy) -> Flow[Table]:
        """Look at a table; the error of a missing or closed one says what to do."""
        try:
            return (yield from exchange(self.get_table(uri), self.read_table, retry))
        except (NotFoundError, PermissionDeniedError) as error:
            project, dataset, _ = parse_table_uri(uri)
            if isinstance(error, NotFoundError):
                hint = other_server_hint(self._base, "bigquery_host")
                advice = f"{uri} does not exist: check the name, or whether it was deleted.{hint}"
            else:
                advice = (
                    f"the connection's account may not read {uri}: grant it roles/bigquery.dataViewer on the dataset "
                    f"{dataset} of project {project}."
                )
            error.args = (f"{error} - {advice}",)
            raise

    def page(self, table: Table, page_token: str | None, retry: RetryPolicy) -> Flow[RowPage]:
        """Read one page of rows."""
        request = self.list_rows(table.uri, page_token)
        return (yield from exchange(request, lambda reply: self.read_rows(reply, table), retry))

    def rows(self, run: Callable[[Flow[Any]], Any], uri: str, retry: RetryPolicy) -> Iterator[dict[str, Any]]:
        """
        Yield the rows of a table; one page is in memory at a time.

        :param run: Carries a flow out, e.g. ``BlockingTransport.run``.
        """
        table: Table = run(self.table(uri, retry))
        # A table has as many pages as it has; only a token that comes twice shows a list without an end.
        pages = Pages(f"BigQuery's list of {uri}", math.inf)
        for token in pages:
            page: RowPage = run(self.page(table, token, retry))
            yield from page.rows
            pages.turn(page)

    def _url(self, uri: str) -> str:
        project, dataset, table = parse_table_uri(uri)
        return (
            f"{self._base}/bigquery/v2/projects/{quote(project, safe=':')}/datasets/{quote(dataset, safe='')}"
            f"/tables/{quote(table, safe='')}"
        )


def result_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """
    Bring a row of an output table to the form of a result line in Cloud Storage.

    ``request``, ``response`` and ``predictions`` may be columns of JSON or of JSON text; text that is none stays.
    """
    line = dict(row)
    for name in _JSON_TEXT:
        # Whoever made the table chose: the columns are of type JSON, or STRING with JSON in them.
        value = line.get(name)
        if isinstance(value, str):
            try:
                line[name] = msgspec.json.decode(value)
            except msgspec.DecodeError:
                continue
    return line


def _record(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(column["name"]): _value(cell.get("v"), column) for column, cell in zip(columns, row["f"], strict=True)}


def _value(value: Any, column: Mapping[str, Any]) -> Any:
    # A cell of a repeated column is a list of cells, each wrapped as `{"v": ...}` once more.
    if column.get("mode") == "REPEATED":
        single = {**column, "mode": "NULLABLE"}
        return [_value(cell.get("v"), single) for cell in value or ()]
    if value is None:
        return None
    kind = str(column.get("type") or "STRING").upper()
    if kind in ("RECORD", "STRUCT"):
        return _record(value, column.get("fields") or ())
    if kind in ("INTEGER", "INT64"):
        return int(value)
    if kind in ("FLOAT", "FLOAT64"):
        return float(value)
    if kind in ("BOOLEAN", "BOOL"):
        return str(value).lower() == "true"
    if kind == "JSON":
        return msgspec.json.decode(value)
    if kind == "TIMESTAMP":
        return (_EPOCH + timedelta(microseconds=int(value))).isoformat().replace("+00:00", "Z")
    return value
