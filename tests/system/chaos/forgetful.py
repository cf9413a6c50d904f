# SPDX-License-Identifier: Apache-2.0
"""A task that creates a job in every attempt, as a plain call of the API does: what the harness has to notice."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from typing import Any

from tests.system.chaos.fork_server import API_KEY, MODEL, POLL_SECONDS, Provider


class ForgetfulTask:
    """Creates and waits."""

    def __init__(self, prompts: list[str]) -> None:
        rows = [{"request": {"contents": [{"parts": [{"text": text}]}]}} for text in prompts]
        self._batch = {"batch": {"displayName": "forgetful", "inputConfig": {"requests": {"requests": rows}}}}

    def execute(self, context: dict[str, Any]) -> str:
        name = str(self._call(f"models/{MODEL}:batchGenerateContent", json.dumps(self._batch).encode())["name"])
        while not self._call(name).get("done"):
            time.sleep(POLL_SECONDS)
        return name

    def on_kill(self) -> None:
        """The job is nobody's business any more."""

    @staticmethod
    def _call(path: str, body: bytes | None = None) -> Any:
        url = f"{os.environ['GOOGLE_GEMINI_BASE_URL']}/v1beta/{path}"
        headers = {"x-goog-api-key": API_KEY, "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as reply:
            return json.load(reply)


FORGETFUL = Provider(lambda order: ForgetfulTask(order["prompts"]), ("apache-airflow",))
