# SPDX-License-Identifier: Apache-2.0
"""The end of a generation: the table is written everywhere, a manifest says what came, and the outcome is judged."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_gemini_batch.cost.ranges import money
from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError, JobError
from airflow_provider_gemini_batch.files.atomic import AtomicFile
from airflow_provider_gemini_batch.landing.manifest import is_model_asked_for
from airflow_provider_gemini_batch.lifecycle.verdict import check_rows
from airflow_provider_gemini_batch.run import errors_file
from airflow_provider_gemini_batch.run.checkpoint import TARGETS
from airflow_provider_gemini_batch.run.merge import Merge
from airflow_provider_gemini_batch.run.outputs import Table, form_of, sample_place
from airflow_provider_gemini_batch.run.overwriting import check_outputs, is_same_place
from airflow_provider_gemini_batch.run.projection import Sampled
from airflow_provider_gemini_batch.run.savings import savings
from airflow_provider_gemini_batch.run.sql_fit import written_by
from airflow_provider_gemini_batch.run.tables import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duckdb import DuckDBPyConnection

    from airflow_provider_gemini_batch.run.checkpoint import Checkpoint
    from airflow_provider_gemini_batch.run.context import RunContext
    from airflow_provider_gemini_batch.run.merge import AnswerFile
    from airflow_provider_gemini_batch.run.snapshot import Snapshot
    from airflow_provider_gemini_batch.run.spec import RunSpec

log = logging.getLogger(__name__)

FIRST_ERRORS = 10


def _jobs_of_equal_rows(notes: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the names of jobs that have answered rows of one shard, where there are several."""
    names: list[str] = []
    for found in notes.values():
        jobs = sorted({note["job"] for note in found if note.get("job") and note["counts"].get("succeeded")})
        names += jobs if len(jobs) > 1 else []
    return names


class RunFailedError(GeminiBatchError):
    """
    The run has ended and its outputs are published, but its outcome is a failure; a retry would not change it.

    :param manifest: What came of it.
    """

    def __init__(self, text: str, manifest: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.manifest = dict(manifest or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.manifest)


def last_line(manifest: Mapping[str, Any]) -> str:
    """
    Say how a run ended: rows by outcome, where they are, what they cost, and what was not asked.

    Example: ``The run has ended: 1,000 rows (996 succeeded, 4 failed) in s3://lake/out.parquet; 2 jobs;
    cost 0.1200 USD; 40 rows reused, 10 duplicates.``
    """
    counts = ", ".join(f"{count:,} {status}" for status, count in manifest["counts"].items())
    places = " and ".join(str(manifest[name]) for name in ("output_path", "output_table") if manifest.get(name))
    jobs = manifest["job_count"]
    unknown = manifest["cost"]["rows_of_unknown_cost"]
    cost = "unknown" if unknown and not manifest["cost"]["actual"] else money(manifest["cost"]["actual"])
    if unknown:
        cost += f" (unknown for {unknown:,} rows)"
    errors = f"; errors in {manifest['errors_path']}" if manifest.get("errors_path") else ""
    return (
        f"The run has ended: {manifest['total']:,} rows ({counts or 'none'}) in {places or 'no output'}{errors}; "
        f"{jobs:,} job{'' if jobs == 1 else 's'}; cost {cost}; {manifest['reused']:,} rows reused, "
        f"{manifest['duplicates']:,} duplicates."
    )


@dataclass(frozen=True)
class RunOutcome:
    """
    How a generation ended.

    :param error: Why it counts as failed, or empty.
    """

    manifest: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> RunOutcome:
        """Read what :meth:`header` made."""
        return cls(header.get("manifest") or {}, str(header.get("error") or ""))

    def header(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values."""
        return {"outcome": "failed" if self.error else "succeeded", "error": self.error, "manifest": self.manifest}

    def result(self) -> dict[str, Any]:
        """Return the manifest, or raise :class:`RunFailedError`."""
        if self.error:
            raise RunFailedError(self.error, self.manifest)
        return dict(self.manifest)


class Finisher:
    """Writes what a generation came to."""

    def __init__(
        self, spec: RunSpec, context: RunContext, checkpoint: Checkpoint, engine: DuckDBPyConnection, folder: str
    ) -> None:
        self._spec = spec
        self._context = context
        self._checkpoint = checkpoint
        self._engine = engine
        self._folder = folder

    # --- before money -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """
        Refuse outputs that cannot be written, as far as that shows now.

        :raises ConfigurationError: Also if another task of the same DAG run writes the same file.
        """
        outputs = self._spec.outputs
        if outputs.errors_path and outputs.path and is_same_place(outputs.path, outputs.errors_path):
            raise ConfigurationError(
                f"output_path and errors_path are both {outputs.path!r}: give each a file of its own."
            )
        check_outputs(self._spec, self._context.source())
        for place in filter(None, (outputs.path, outputs.errors_path)):
            if form_of(place) != "folder" and not self._context.is_trial:
                self._claim(place)
                AtomicFile(self._place(place)).discard()  # what cannot be written is told before anything is paid for
        if outputs.errors_path and form_of(outputs.errors_path) == "folder":
            raise ConfigurationError("errors_path must end in .jsonl, .csv or .parquet.")
        if outputs.table and self._context.sql is None:
            raise ConfigurationError("output_table needs output_conn_id: the connection of its database.")

    def check_columns(self, keys: Mapping[str, str], kept: Mapping[str, str], data: str | None) -> None:
        """
        Refuse a database table that has not the columns, their types, the unique index or the rights that are needed.

        :param data: Local file with these columns, once the input is known to be good: the table is then created if it
            is not there, but for a dry run.
        """
        if self._spec.outputs.errors_path:
            errors_file.check_columns((*keys, *kept))
        if self._spec.outputs.table and self._context.sql is not None:
            written = written_by(self._spec, keys, kept, self._engine, data)
            may_create = data is not None and not self._context.is_trial
            self._context.sql.check(self._table_name(), written, may_create=may_create)

    def _claim(self, place: str) -> None:
        if not self._context.run_claim:
            return
        name = hashlib.sha256(f"{self._context.run_claim}\n{place}".encode()).hexdigest()[:32]
        mine = self._context.identity.task
        # Beside the folders of the runs of a task, where its other map indexes and loop passes see the claim.
        claims = type(self._checkpoint)(self._checkpoint.root.parent().below(TARGETS), 1)
        if claims.create(f"target-{name}.json", {"task": mine})["task"] != mine:
            raise ConfigurationError(
                f"{place!r} is written by another task of this DAG run: give each map index, and each pass of a loop, "
                "a file of its own, e.g. with {{ ti.map_index }} or {{ loop.index }} in its name, or a folder, which "
                "they may share."
            )

    def _place(self, place: str) -> str:
        return sample_place(place) if self._spec.sample is not None else place

    def _table_name(self) -> str:
        table = self._spec.outputs.table or ""
        return f"{table}_sample" if self._spec.sample is not None else table

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(
        self,
        snapshot: Snapshot,
        files: Sequence[AnswerFile],
        notes: Mapping[str, Sequence[Mapping[str, Any]]],
        unwanted: Sequence[str] = (),
    ) -> RunOutcome:
        """
        Write the outputs, and return the outcome.

        :param unwanted: Jobs whose answers nobody takes, and which could not be cancelled.
        """
        check_outputs(self._spec, self._context.source())  # the arguments may have been edited since the input was read
        merge = Merge(self._engine, self._checkpoint, snapshot, self._spec, files, self._folder)
        parts = merge.parts()
        json_columns = [name for name, kind in self._spec.answer_columns.items() if kind.kind == "json"]
        json_columns += snapshot.json_columns
        table = Table(self._engine, parts, merge.columns, json_columns, merge.bytes_a_row)
        # The promise of a run is one row for each input row. Rather no output than one that lacks rows unseen.
        if table.rows != snapshot.rows:
            raise AssertionError(f"the table has {table.rows} rows, and the snapshot {snapshot.rows}")
        outputs = self._spec.outputs
        written: dict[str, Any] = {}
        if outputs.errors_path:
            written["errors_path"] = self._place(outputs.errors_path)
            errors_file.write_errors(
                table, self._spec, self._checkpoint, snapshot, written["errors_path"], self._folder
            )
        if outputs.path:
            written["output_path"] = self._place(outputs.path)
            table.write(written["output_path"], self._folder, name=f"part-{self._context.identity.task}")
        if outputs.table and self._context.sql is not None:
            written["output_table"] = self._table_name()
            self._context.sql.write(self._table_name(), table, list(snapshot.keys))
        manifest = self._manifest(table, snapshot, notes, written, merge.paid_twice)
        manifest["still_running"] = list(unwanted)[:50]
        if unwanted:
            log.error("Jobs that nobody wants could not be cancelled, and may bill: %s.", ", ".join(unwanted))
        log.info("%s", last_line(manifest))
        return RunOutcome(manifest, self._judge(manifest, notes))

    def _judge(self, manifest: Mapping[str, Any], notes: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
        """Return why the run counts as failed, or an empty text."""
        # Rows that a cap kept from being asked are no bad luck, so `max_failed_rows` does not excuse them.
        refused = next((note["refused"] for found in notes.values() for note in found if note.get("refused")), "")
        if refused:
            return f"Not all rows were asked. {refused}"
        counts = manifest["counts"]
        failed = manifest["total"] - counts.get("succeeded", 0)
        kinds = {kind: count for kind, count in counts.items() if kind != "succeeded"}
        reasons = {entry["message"] or "no reason": entry["count"] for entry in manifest["errors"]}
        try:
            warning = check_rows(
                manifest["total"], failed, self._spec.max_failed_rows, what="The run", kinds=kinds, reasons=reasons
            )
        except JobError as error:
            return str(error)
        if warning:
            log.warning("%s", warning)
        return ""

    def _manifest(
        self,
        table: Table,
        snapshot: Snapshot,
        notes: Mapping[str, Sequence[Mapping[str, Any]]],
        written: Mapping[str, Any],
        paid_twice: int,
    ) -> dict[str, Any]:
        meta = self._spec.meta
        # Outcomes, tokens and costs are counted in the table that is published, so that the manifest cannot say
        # otherwise than the file.
        sources = self._counted(table, meta("answer_source"))
        totals = self._totals(table)
        jobs = sorted({note["job"] for found in notes.values() for note in found if note.get("job")})
        versions = self._counted(table, meta("model_version"), f"{quoted(meta('status'))} = 'succeeded'")
        # The service may move an alias, or reroute a retired model, in the middle of a run.
        if len(versions) > 1:
            log.warning("Answers come from several versions of the model: %s", ", ".join(sorted(versions)))
        others = {name: count for name, count in versions.items() if not is_model_asked_for(self._spec.model, name)}
        if others:
            counts = ", ".join(f"{count:,} by {name}" for name, count in others.items())
            log.warning(
                "Answers came from a model that was not asked for (%s): %s. Its price and its answers may differ.",
                self._spec.model, counts,
            )  # fmt: skip
        saved = savings(table, self._spec, self._engine, self._context.prices, notes)
        twins = _jobs_of_equal_rows(notes)
        if paid_twice:
            log.error("%d rows were answered twice, and paid for twice, by %s.", paid_twice, ", ".join(twins) or "jobs")
        projected = {} if self._spec.sample is None else {"projection": self._projection(table, snapshot)}
        return {
            **written,
            **projected,
            "total": snapshot.rows,
            "input_rows": snapshot.total_rows,
            "answer_columns": list(self._spec.answer_columns),
            "counts": self._counted(table, meta("status")),
            "succeeded": self._counted(table, meta("status")).get("succeeded", 0),
            "reused": sources.get("reused", 0),
            "duplicates": sources.get("duplicate", 0),
            "finish_reasons": self._counted(table, meta("finish_reason")),
            "model_versions": versions,
            "errors": self._errors(table),
            "attempts": totals["attempts"],
            # Without the empty round by which the run learnt that nothing is left.
            "rounds": len([header for header in self._checkpoint.rounds() if header["shards"]]),
            "generation": self._checkpoint.number,
            "tokens": {name: totals[name] for name in ("prompt", "output", "thoughts", "cached")},
            "cost": {
                "actual": totals["cost"],
                "rows_of_unknown_cost": totals["unknown"],
                "replaced": self._replaced(),
                **saved.members(),
            },
            "costs": saved.added_to(self._costs(table)),
            "paid_twice": paid_twice,
            # The manifest goes to XCom, a column of Airflow's database: some names, and the number of all.
            "paid_twice_jobs": twins[:50],
            "answers_lost": sum(int(note.get("lost") or 0) for found in notes.values() for note in found),
            "jobs": jobs[:50],
            "job_count": len(jobs),
        }

    def _replaced(self) -> float:
        """Return the dollars that generations have paid which were replaced, and so tell of nothing themselves."""
        paid = 0.0
        for older in self._checkpoint.older():
            if (older.end or {}).get("outcome") != "replaced":
                break
            paid += sum(float(note.get("cost") or 0.0) for note in older.collected())
        return paid

    def _costs(self, table: Table) -> dict[str, dict[str, Any]]:
        """Return tokens and cost by the version that answered, of rows that this run asked."""
        names = (
            "model_version",
            "prompt_tokens",
            "output_tokens",
            "thoughts_tokens",
            "cached_tokens",
            "cost",
            "attempts",
        )
        version, read, written, thoughts, cached, cost, attempts = (quoted(self._spec.meta(name)) for name in names)
        found = self._engine.execute(
            f"SELECT coalesce({version}, 'unknown'), count(*), coalesce(sum({read}), 0)::BIGINT, "
            f"(coalesce(sum({written}), 0) + coalesce(sum({thoughts}), 0))::BIGINT, "
            f"coalesce(sum({thoughts}), 0)::BIGINT, coalesce(sum({cached}), 0)::BIGINT, "
            f"sum({cost})::DOUBLE, count(*) FILTER ({cost} IS NULL) "
            f"FROM ({table.query}) WHERE {attempts} > 0 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50"
        ).fetchall()
        members = ("rows", "input_tokens", "output_tokens", "thoughts_tokens", "cached_tokens", "cost", "unknown")
        return {str(version): dict(zip(members, numbers, strict=True)) for version, *numbers in found}

    def _projection(self, table: Table, snapshot: Snapshot) -> dict[str, Any]:
        """Say what the sample shows of the whole input."""
        cost, attempts, status = (quoted(self._spec.meta(name)) for name in ("cost", "attempts", "status"))
        found = self._engine.execute(
            f"SELECT count(*), count(*) FILTER ({status} <> 'succeeded'), sum({cost})::DOUBLE, "
            f"coalesce(var_samp({cost}), 0), count(*) FILTER ({cost} IS NULL AND {attempts} > 0) FROM ({table.query})"
        ).fetchone()
        assert found is not None
        rows, failed, paid, variance, unknown = found
        sampled = Sampled(rows, failed, None if unknown else paid, variance)
        log.info("%s", sampled.line(snapshot.total_rows))
        return sampled.of(snapshot.total_rows)

    def _counted(self, table: Table, column: str, where: str = "TRUE") -> dict[str, int]:
        found = self._engine.execute(
            f"SELECT {quoted(column)}, count(*) FROM ({table.query}) WHERE {where} AND {quoted(column)} IS NOT NULL "
            "GROUP BY ALL ORDER BY count(*) DESC, 1 LIMIT 50"
        ).fetchall()
        return dict(Counter({str(value): int(count) for value, count in found}))

    def _errors(self, table: Table) -> list[dict[str, Any]]:
        names = [self._spec.meta(name) for name in ("status", "error_code", "error_message")]
        status, code, message = map(quoted, names)
        found = self._engine.execute(
            f"SELECT {status}, {code}, {message}, count(*) FROM ({table.query}) WHERE {status} <> 'succeeded' "
            f"GROUP BY ALL ORDER BY count(*) DESC, 1, 2, 3 LIMIT {FIRST_ERRORS}"
        ).fetchall()
        return [
            {"status": status, "code": code, "message": message, "count": count}
            for status, code, message, count in found
        ]

    def _totals(self, table: Table) -> dict[str, Any]:
        def total(name: str) -> str:
            return f"coalesce(sum({quoted(self._spec.meta(name))}), 0)"

        cost, attempts = quoted(self._spec.meta("cost")), quoted(self._spec.meta("attempts"))
        found = self._engine.execute(
            f"SELECT {total('attempts')}::BIGINT, {total('prompt_tokens')}::BIGINT, {total('output_tokens')}::BIGINT, "
            f"{total('thoughts_tokens')}::BIGINT, {total('cached_tokens')}::BIGINT, {total('cost')}::DOUBLE, "
            f"count(*) FILTER ({cost} IS NULL AND {attempts} > 0) FROM ({table.query})"
        ).fetchone()
        assert found is not None
        return dict(zip(("attempts", "prompt", "output", "thoughts", "cached", "cost", "unknown"), found, strict=True))
