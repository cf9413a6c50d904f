# SPDX-License-Identifier: Apache-2.0
"""
A process that runs DAGs: one JSON object a line comes in, one goes out.

It is a process of its own because Airflow reads its home and database when it is first imported, which other tests of
the same session have done already. In: ``{"dag_id", "connection", "deferrable", "conf"}``; out: ``{"state", "tasks":
{task_id: state}, "instances": {task_id[map_index]: state}, "run_id"}`` or ``{"error"}``. The first line out says
``{"dags": {dag_id: import path}, "errors"}``.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def load(folder: str) -> Any:
    """Parse the DAG files of *folder* and make their DAGs known to the database."""
    try:
        from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    except ImportError:
        return _load_before_3_2(folder)
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    DagBundlesManager().sync_bundles_to_db()
    bag = BundleDagBag(dag_folder=folder, bundle_path=Path(folder), bundle_name="dags-folder")
    sync_bag_to_db(bag, "dags-folder", None)
    return bag


def _load_before_3_2(folder: str) -> Any:
    from airflow.models import dagbag

    bag = dagbag.DagBag(dag_folder=folder, include_examples=False)
    try:
        from airflow.dag_processing.bundles.manager import DagBundlesManager
    except ImportError:
        return bag  # 2.11 runs a DAG that its database does not know
    DagBundlesManager().sync_bundles_to_db()
    if hasattr(dagbag, "sync_bag_to_db"):
        dagbag.sync_bag_to_db(bag, "dags-folder", None)  # 3.1
    else:
        bag.sync_to_db("dags-folder", None)  # 3.0
    return bag


def keep_api_server() -> None:
    """
    Let ``dag.test`` use one API server in this process for all tasks, as it does from Airflow 3.3 on.

    Earlier ones start one for each task, which takes long, and drop the object that holds its lifespan, whereupon
    svcs 26.2 takes the server's services away.
    """
    try:
        from airflow.sdk.execution_time import supervisor
    except ImportError:
        return  # 2.11
    supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)


def _hurry(task: Any, deferrable: bool) -> None:
    """Let a task wait as asked for, and look at its job often."""
    how = {"deferrable": deferrable, "poll_interval": 0.2, "poke_interval": 0.2}
    if hasattr(task, "partial_kwargs"):  # a mapped task keeps the arguments of its instances
        if "deferrable" in task.partial_kwargs:
            task.partial_kwargs.update(deferrable=deferrable, poll_interval=0.2)
        return
    for name, value in how.items():
        if hasattr(task, name):
            setattr(task, name, value)


def run(dag: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Run a DAG once against the connection of *order*."""
    os.environ["AIRFLOW_CONN_GEMINI_BATCH_DEFAULT"] = json.dumps(order["connection"])
    for task in dag.tasks:
        if order["deferrable"] is not None:  # None leaves tasks as their file has them
            _hurry(task, order["deferrable"])
    done = dag.test(run_conf=order["conf"])
    tasks = {instance.task_id: str(instance.state) for instance in done.get_task_instances()}
    mapped = {
        f"{instance.task_id}[{instance.map_index}]" if instance.map_index >= 0 else instance.task_id: instance
        for instance in done.get_task_instances()
    }
    instances = {name: str(instance.state) for name, instance in mapped.items()}
    return {"state": str(done.state), "tasks": tasks, "instances": instances, "run_id": done.run_id}


def main() -> None:
    """Serve orders until there are no more."""
    # Airflow's and the tasks' own output must not be taken for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    keep_api_server()
    bag = load(sys.argv[1])
    say({"dags": sorted(bag.dags), "errors": dict(bag.import_errors)})
    for line in sys.stdin:
        order = json.loads(line)
        try:
            say(run(bag.dags[order["dag_id"]], order))
        except Exception:
            say({"error": traceback.format_exc()})
    # Airflow's API server in this process would take three seconds to end.
    os._exit(0)


if __name__ == "__main__":
    main()
