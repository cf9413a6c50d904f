# SPDX-License-Identifier: Apache-2.0
"""
A real API server with the page, in a process of its own: ``python -m tests.support.page_server HOME``.

It makes Airflow's database in HOME, serves Airflow's own app with our plugin on a free port, and prints that port. A
test fills the database through ``POST /for-tests``, which only this server has: a JSON object of lists
(``connections``, ``tasks``, ``variables``), see :func:`fill`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

USERS = ("viewer", "user", "op", "admin")


def environment(home: Path) -> dict[str, str]:
    """Return what the server's process gets."""
    passwords = home / "passwords.json"
    roles = {**{name: name for name in USERS}, "tasks_only": "op", "no_actions": "op", "stranger": "viewer"}
    passwords.write_text(json.dumps(dict.fromkeys(roles, "secret")))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    options = {
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_FOLDER": str(home / "dags"),
        "CORE__AUTH_MANAGER": "tests.support.narrow_auth.NarrowAuthManager",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in roles.items()),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "CORE__FERNET_KEY": "c2l4dGVlbi1ieXRlcy1hbmQtc2l4dGVlbi1ieXRlcy0=",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "API__SECRET_KEY": secrets.token_hex(16),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "CORE__TEST_CONNECTION": "Enabled",
        "LOGGING__LOGGING_LEVEL": "WARNING",
        "GEMINI_BATCH__MONTHLY_BUDGET": "1200",
    }
    ours = {f"AIRFLOW__{name}": value for name, value in options.items()}
    return {**kept, **ours, "AIRFLOW_HOME": str(home), "HOME": str(home), "PYTHONWARNINGS": "ignore",
            "_AIRFLOW_PROCESS_CONTEXT": "server"}  # fmt: skip


class PageServer:
    """
    The server, seen from a test.

    :param home: An empty folder.
    """

    def __init__(self, home: Path) -> None:
        (home / "dags").mkdir()
        self._log = (home / "server.log").open("w")
        self.log_path = home / "server.log"
        given = environment(home)
        self.secret = given["AIRFLOW__API__SECRET_KEY"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.page_server", str(home)],
            env=given, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        port = ""
        for line in self.process.stdout:  # Airflow may say things of its own before
            if line.startswith("port "):
                port = line.split()[1]
                break
        assert port, self.log_path.read_text()[-3000:]
        # A pipe that nobody reads holds up whoever logs once it is full.
        self._said = threading.Thread(target=shutil.copyfileobj, args=(self.process.stdout, self._log), daemon=True)
        self._said.start()
        self.url = f"http://127.0.0.1:{port}"
        self._tokens: dict[str, str] = {}
        self._clients: dict[str | None, Any] = {}

    def token(self, user: str) -> str:
        """Return a token of Airflow for one of :data:`USERS`."""
        import httpx

        if user not in self._tokens:
            body = {"username": user, "password": "secret"}
            self._tokens[user] = httpx.post(f"{self.url}/auth/token", json=body).json()["access_token"]
        return self._tokens[user]

    def client(self, user: str | None = "admin") -> Any:
        """Return an HTTP client that carries a user's session as a browser does, in a cookie."""
        import httpx

        if user not in self._clients:
            cookies = {} if user is None else {"_token": self.token(user)}
            # The server closes a connection after five seconds; one that is used in that moment is lost.
            limits = httpx.Limits(keepalive_expiry=2)
            self._clients[user] = httpx.Client(
                base_url=f"{self.url}/gemini-batch", cookies=cookies, timeout=30, limits=limits
            )
        return self._clients[user]

    def api(self, user: str = "admin") -> Any:
        """Return an HTTP client of Airflow's own API."""
        import httpx

        if f"api:{user}" not in self._clients:
            headers = {"Authorization": f"Bearer {self.token(user)}"}
            self._clients[f"api:{user}"] = httpx.Client(base_url=self.url, headers=headers, timeout=30)
        return self._clients[f"api:{user}"]

    def fill(self, **things: list[dict[str, Any]]) -> dict[str, Any]:
        """Put things into the database, see :func:`fill`."""
        import httpx

        reply = httpx.post(f"{self.url}/for-tests", json=things, timeout=30)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def stop(self) -> None:
        """End the server."""
        for client in self._clients.values():
            client.close()
        self.process.terminate()
        self.process.wait(20)
        self._said.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()


# --- in the server's process ------------------------------------------------------------------------------------------


def fill(things: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """
    Put things into the database.

    ``connections``: ``conn_id`` and the members of a JSON connection. ``tasks``: ``dag_id``, ``run_id``, ``task_id``,
    ``map_index``, ``operator``, ``state``, ``xcoms`` (a dict), ``arguments`` (rendered ones), ``trigger`` (classpath
    and kwargs), ``kept`` (what the task state store holds), ``earlier`` (states of earlier attempts), ``asks`` (what it
    asks a person), ``chosen`` (what ada answered). ``states``: asks for the states of tasks by address.
    ``stores``: S3 as Airflow reaches it, each a ``conn_id`` with an ``endpoint``.
    ``release``: drops what the page keeps, as it does when nobody looks. ``dags``: DAGs as the scheduler has them, each
    ``dag_id`` with a ``task_id``. ``cleaned``: each a ``table`` that ``airflow db clean`` empties.
    """
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    for each in things.get("stores", []):
        _attach(**each)
    with create_session() as session:
        for each in things.get("connections", []):
            name = each.pop("conn_id")
            session.query(Connection).filter(Connection.conn_id == name).delete()
            session.add(Connection.from_json(json.dumps(each), conn_id=name))
        for each in things.get("tasks", []):
            _add_task(session, each)
        for each in things.get("dags", []):
            _add_dag(session, **each)
        session.flush()
        if "cleaned" in things:
            _clean([each["table"] for each in things["cleaned"]])
        if "release" in things:
            _release()
        return {"states": [_state_of(session, each) for each in things.get("states", [])]}


def _release() -> None:
    from airflow_provider_gemini_batch.plugins.page import answers_file, job_lists

    job_lists.drop_unused(lambda: float("inf"))
    answers_file.release()


def _attach(conn_id: str, endpoint: str) -> None:
    import s3fs
    from airflow.sdk.io import attach

    fs = s3fs.S3FileSystem(key="k", secret="s", endpoint_url=endpoint, config_kwargs={"retries": {"max_attempts": 1}})
    fs.retries = 1
    attach("s3", conn_id=conn_id, fs=fs)


def _add_dag(session: Any, dag_id: str, task_id: str) -> None:
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG

    with DAG(dag_id, schedule=None) as dag:
        EmptyOperator(task_id=task_id)
    SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="tests", session=session)


def _clean(tables: list[str]) -> None:
    from airflow._shared.timezones import timezone
    from airflow.utils.db_cleanup import run_cleanup

    run_cleanup(clean_before_timestamp=timezone.utcnow(), table_names=tables, confirm=False, skip_archive=True)


def _state_of(session: Any, where: dict[str, Any]) -> Any:
    from airflow.models.taskinstance import TaskInstance

    found = session.query(TaskInstance).filter_by(**where).one()
    return None if found.state is None else str(found.state)


def _add_task(session: Any, what: dict[str, Any]) -> None:
    import uuid
    from datetime import timedelta

    from airflow._shared.timezones import timezone
    from airflow.models.dag import DagModel
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.models.xcom import XComModel

    dag_id, run_id, task_id = what["dag_id"], what.get("run_id", "manual__1"), what["task_id"]
    map_index = what.get("map_index", -1)
    began = timezone.utcnow() - timedelta(seconds=what.get("age", 600))
    if session.get(DagBundleModel, "tests") is None:
        session.add(DagBundleModel(name="tests"))
        session.flush()
    if session.get(DagModel, dag_id) is None:
        session.add(DagModel(dag_id=dag_id, fileloc="/dags/x.py", bundle_name="tests", relative_fileloc="x.py"))
        session.flush()
        session.add(DagVersion(dag_id=dag_id, version_number=1, bundle_name="tests"))
        session.flush()
    version = session.query(DagVersion).filter_by(dag_id=dag_id).first()
    run = session.query(DagRun).filter_by(dag_id=dag_id, run_id=run_id).one_or_none()
    if run is None:
        run = DagRun(
            dag_id=dag_id, run_id=run_id, run_type="manual", state="running", start_date=began, run_after=began
        )
        session.add(run)
        session.flush()
    trigger_id = None
    if "trigger" in what:
        trigger = Trigger(classpath=what["trigger"]["classpath"], kwargs=what["trigger"]["kwargs"])
        session.add(trigger)
        session.flush()
        trigger_id = trigger.id
    columns = TaskInstance.__table__.columns.keys()
    values = {
        "id": uuid.uuid4(), "dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index,
        "state": what.get("state", "success"), "try_number": what.get("try_number", 1), "max_tries": 0,
        "start_date": began,
        "end_date": began + timedelta(seconds=60) if what.get("state", "success") == "success" else None,
        "operator": what.get("operator", "RunBatchOperator"), "pool": "default_pool", "pool_slots": 1,
        "queue": "default",
        "priority_weight": 1, "trigger_id": trigger_id, "dag_version_id": version.id, "hostname": "", "unixname": "",
        "executor_config": {}, "custom_operator_name": what.get("operator", "RunBatchOperator"),
    }  # fmt: skip
    session.execute(TaskInstance.__table__.insert().values({k: v for k, v in values.items() if k in columns}))
    session.flush()
    if "earlier" in what or "asks" in what:
        _add_around(session, values, what)
    if "arguments" in what:
        from airflow.models.renderedtifields import RenderedTaskInstanceFields

        where = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
        table = RenderedTaskInstanceFields.__table__
        session.execute(table.insert().values(**where, rendered_fields=what["arguments"], k8s_pod_yaml=None))
    for key, value in what.get("xcoms", {}).items():
        # As workers do over the Execution API: the value itself, without Airflow's encoding around it.
        XComModel.set(
            key=key, value=value, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index,
            serialize=False, session=session,
        )  # fmt: skip
    # A task pushes them before its end.
    own = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
    session.query(XComModel).filter_by(**own).update({"timestamp": began + timedelta(seconds=50)})


def _add_around(session: Any, values: dict[str, Any], what: dict[str, Any]) -> None:
    """Add earlier attempts of a task, and the question that it asks."""
    import uuid

    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstancehistory import TaskInstanceHistory

    table = TaskInstanceHistory.__table__
    for number, state in enumerate(what.get("earlier", []), start=1):
        row = {**values, "task_instance_id": uuid.uuid4(), "try_number": number, "state": state, "trigger_id": None,
               "end_date": values["start_date"]}  # fmt: skip
        session.execute(table.insert().values({k: v for k, v in row.items() if k in table.columns}))
    if "asks" in what:
        answer = (
            {"chosen_options": [what["chosen"]], "responded_by": {"id": "1", "name": "ada"}} if "chosen" in what else {}
        )
        session.add(HITLDetail(ti_id=values["id"], options=["Approve", "Reject"], subject=what["asks"], **answer))
        session.flush()


def main(home: str) -> None:
    """Make the database, and serve until the process is ended."""
    import uvicorn
    from airflow.api_fastapi.app import create_app
    from airflow.utils.db import initdb
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    initdb()
    app = create_app("all")

    async def for_tests(request: Any) -> Any:
        import traceback

        import anyio.to_thread

        try:
            return JSONResponse(await anyio.to_thread.run_sync(fill, await request.json()))
        except Exception:
            return JSONResponse({"error": traceback.format_exc()}, status_code=500)

    app.router.routes.insert(0, Route("/for-tests", for_tests, methods=["POST"]))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    print("port", listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1])
