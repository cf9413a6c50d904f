# SPDX-License-Identifier: Apache-2.0
"""
A whole Airflow with users in it, and a person before a browser.

``JOURNEY_PYTHON=.venv-3.4/bin/python`` takes the Airflow of another environment; the browser is driven from ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from demo.processes import Processes
from demo.stack import Stack
from tests.support.page_server import USERS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("JOURNEY_PYTHON") or sys.executable
PASSWORD = "secret"
STEP = 30_000
"""Milliseconds that a person waits for one thing on the screen."""


def airflow_version(python: str = PYTHON) -> tuple[int, int]:
    """Return major and minor version of the Airflow that an interpreter has."""
    code = "from importlib.metadata import version; print(version('apache-airflow-core'))"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    major, minor = told.split(".")[:2]
    return int(major), int(minor)


class Place:
    """
    An Airflow with users and the example DAGs, without a connection, beside the emulator.

    :param state: An empty folder.
    """

    def __init__(self, state: Path) -> None:
        self.version = airflow_version()
        logs = state / "logs"
        logs.mkdir()
        passwords = state / "passwords.json"
        passwords.write_text(json.dumps(dict.fromkeys(USERS, PASSWORD)))
        settings = {
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{name}" for name in USERS),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        }
        self._processes = Processes(logs, state / "processes.json")
        self.stack = Stack(
            ROOT, state, ROOT / "example_dags", self._processes, more_settings=settings, python=PYTHON
        )  # fmt: skip
        self.airflow, self.emulator = self.stack.airflow, self.stack.emulator
        self.url = self.airflow.base_url

    def start(self, dag_id: str) -> None:
        """Start everything; returns when a person can sign in and run the DAG."""
        self.stack.start()
        self.wait(lambda: not self.stack.waiting_for(), 120, "Airflow")
        self.airflow.sign_in("admin", PASSWORD)
        self.wait(lambda: self.airflow.has_dag(dag_id), 60, f"DAG {dag_id}")

    def stop(self) -> None:
        """End all processes."""
        self._processes.stop()

    def wait(self, question: Callable[[], bool], seconds: float, what: str) -> None:
        """Ask until the answer is yes."""
        deadline = time.monotonic() + seconds
        while not question():
            self.stack.check()
            assert time.monotonic() < deadline, f"{what} is not there after {seconds:.0f} s"
            time.sleep(0.3)


class Person:
    """
    A person before a browser. Each method is something they do, or see.

    :param browser: Playwright's.
    :param name: One of the users, whose role has the same name.
    """

    def __init__(self, browser: Any, place: Place, name: str) -> None:
        self.place, self.name = place, name
        self.faults: list[str] = []
        self._context = browser.new_context(viewport={"width": 1280, "height": 900})
        self._context.set_default_timeout(STEP)
        self._looks_at(self._context.new_page())

    def _looks_at(self, window: Any) -> None:
        self.window = window
        window.on("pageerror", lambda fault: self.faults.append(str(fault)))
        window.on("console", self._note)

    def _note(self, said: Any) -> None:
        where = f"{said.location.get('url', '')} {said.text}"
        # A view that is refused is an answer, not a fault of the page.
        if said.type == "error" and "/gemini-batch/" in where and "status of 403" not in where:
            self.faults.append(said.text)

    def close(self) -> None:
        """Close the browser's window; what was seen last is kept with the pictures."""
        self.picture(f"journey-last-{self.name}")
        self._context.close()

    def picture(self, name: str) -> None:
        """Keep a picture where ``PICTURES`` asks for pictures."""
        if folder := os.environ.get("PICTURES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.window.screenshot(path=str(Path(folder) / f"{name}.png"))

    def opens(self, path: str) -> None:
        """Go to an address of Airflow."""
        self.window.goto(self.place.url + path, wait_until="domcontentloaded")

    def signs_in(self) -> None:
        """Fill Airflow's own form."""
        self.opens("/")
        self.window.get_by_label("Username").fill(self.name)
        self.window.get_by_label("Password").fill(PASSWORD)
        self.window.get_by_role("button", name="Sign in").click()
        self.window.get_by_role("link", name="Dags").first.wait_for()

    def adds_connection(self, conn_id: str, **fields: str) -> None:
        """Make a connection of our type in Airflow's form; *fields* are labels and values."""
        self.opens("/connections")
        self.window.get_by_role("button", name="Add Connection").first.click()
        form = self.window.get_by_role("dialog")
        form.get_by_label("Connection ID").fill(conn_id)
        form.get_by_role("combobox").first.click()
        self.window.keyboard.type("Gemini Batch")
        self.window.keyboard.press("Enter")
        for label, value in fields.items():
            form.get_by_label(label).fill(value)
        with self.window.expect_response(lambda reply: reply.url.endswith("/api/v2/connections")) as saved:
            form.get_by_role("button", name="Save").click()
        assert saved.value.status == 201, saved.value.text()

    def tests_connection(self, conn_id: str) -> tuple[bool, str]:
        """Press *Test* in the row of a connection; return what comes back."""
        row = self.window.get_by_role("row").filter(has_text=conn_id)
        with self.window.expect_response(lambda reply: reply.url.endswith("/connections/test")) as tested:
            row.get_by_role("button", name="Test Connection").click()
        told = tested.value.json()
        return bool(told.get("status")), str(told.get("message") or told)

    def triggers(self, dag_id: str) -> str:
        """Press *Trigger* and again *Trigger*; return the run's id."""
        self.opens(f"/dags/{dag_id}")
        self.window.get_by_role("button", name="Trigger").first.click()
        dialog = self.window.get_by_role("dialog")
        with self.window.expect_response(lambda reply: reply.url.endswith("/dagRuns")) as made:
            dialog.get_by_role("button", name="Trigger").last.click()
        return str(made.value.json()["dag_run_id"])

    def opens_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Open Airflow's page of a task instance."""
        self.opens(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}")

    def opens_our_view(self) -> Any:
        """From a task's page, open ours: the tab on Airflow 3.4, the link among the task's details before."""
        if self.place.version >= (3, 4):
            self.window.get_by_role("link", name="Gemini batch").click()
            return self.window.frame_locator("iframe")
        self.window.get_by_role("link", name="Details").click()
        link = self.window.get_by_role("link", name="Gemini batch")
        if link.get_attribute("target") == "_blank":  # Airflow 3.1 and 3.2; later ones stay in the window
            with self._context.expect_page() as opened:
                link.click()
            self._looks_at(opened.value)
        else:
            link.click()
        return self.window

    def opens_menu(self) -> Any:
        """Open our entry in Airflow's menu, and return what is inside the frame."""
        self.opens("/")
        self.window.get_by_role("link", name="Gemini").click()
        return self.window.frame_locator("iframe")
