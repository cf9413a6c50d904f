# SPDX-License-Identifier: Apache-2.0
"""One DAG for each case of the crash suite."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Variable, get_current_context, task, task_group

from airflow_provider_gemini_batch.operators import CreateBatchOperator
from tests.system.crash.cases import CASES, LOOP, MAX_TRIES, TASK_ID, Case


class TalkingOperator(CreateBatchOperator):
    """Asks Airflow for something all the time while it waits: a signal meets it in the middle of a conversation."""

    def _wait(self, *_: Any) -> Any:
        while True:
            Variable.get("nothing", default=None)


def loop(case: Case, operator: type[CreateBatchOperator], arguments: dict[str, Any]) -> None:
    """Repeat the task; after each pass the gate notes the names that it returned."""

    @task
    def rows() -> Any:
        context: dict[str, Any] = dict(get_current_context())
        index = context["loop"].index if case.other_rows else 0
        lists = [case.rows(index * case.width + number) for number in range(case.width)]
        return lists if case.is_mapped else lists[0]

    def body() -> None:
        made = rows()
        if case.is_mapped:
            operator.partial(**arguments).expand(inlined_requests=made)
        else:
            operator(inlined_requests=made, **arguments)

    def note(**context: Any) -> bool:
        of_pass = context["loop"]
        jobs = list(of_pass.result) if case.is_mapped else [of_pass.result]
        with open(case.passes_path, "a") as file:
            file.write(json.dumps({"index": of_pass.index, "jobs": jobs}) + os.linesep)
        return bool(of_pass.index + 1 >= case.passes)

    group: Any = task_group(group_id=LOOP)(body)
    group.loop(max_iterations=case.passes, until=note)


def make(case: Case) -> DAG:
    """Make the DAG of a case."""
    arguments: dict[str, Any] = {
        "task_id": TASK_ID,
        "gemini_batch_conn_id": case.conn_id,
        "model": "gemini-3.5-flash-lite",
        "wait_for_completion": case.waits,
        "deferrable": case.deferrable,
        "poll_interval": 2,
        "cancel_on_kill": case.cancel_on_kill,
        "retries": MAX_TRIES - 1,
        "retry_delay": timedelta(seconds=1),
    }
    operator = TalkingOperator if case.talks else CreateBatchOperator
    with DAG(
        case.dag_id,
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        is_paused_upon_creation=False,
        dagrun_timeout=None if case.run_timeout is None else timedelta(seconds=case.run_timeout),
    ) as dag:
        if case.passes:
            loop(case, operator, arguments)
        elif case.is_mapped:
            rows = [case.rows(number) for number in range(len(case.ends))]
            operator.partial(**arguments).expand(inlined_requests=rows)
        elif case.from_file:
            operator(input_path=str(case.rows_path), **arguments)
        else:
            operator(inlined_requests=case.rows(), **arguments)
    return dag


for each in CASES:
    globals()[each.dag_id] = make(each)
