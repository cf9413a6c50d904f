# SPDX-License-Identifier: Apache-2.0
"""
Links as Airflow's UI shows them: ``link_reader.py FOLDER DAG_ID`` prints ``{task_id: {name: address}}``.

The DAG goes through serialisation as for the webserver, and the addresses come from the XComs of the database.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Print the links of the DAG's last run."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.serialization import serialized_objects
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from tests.dags.dag_runner import load

    dags: Any = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG  # type: ignore[attr-defined]
    dag = dags.from_dict(dags.to_dict(load(sys.argv[1]).dags[sys.argv[2]]))
    found: dict[str, dict[str, Any]] = {}
    with create_session() as session:
        for ti in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == sys.argv[2])):
            task = dag.get_task(ti.task_id)
            found[ti.task_id] = {name: task.get_extra_links(ti, name) for name in task.extra_links}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
