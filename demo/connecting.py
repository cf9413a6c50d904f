# SPDX-License-Identifier: Apache-2.0
"""The demo's connection: stored in Airflow's database, where a person sees, tests and changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from demo.rest import AirflowApi

CONNECTION = "gemini_batch_default"


def emulators_connection(emulator: str) -> dict[str, Any]:
    """
    Return the connection that leads to the emulator.

    :param emulator: Its base URL.
    """
    return {
        "conn_type": "gemini_batch",
        "description": "The emulator: nothing leaves this machine, nothing is billed",
        "password": "demo-key",
        "host": emulator,
    }


def connect(airflow: AirflowApi, emulator: str) -> bool:
    """
    Let the connection lead to the emulator, unless a person has made another of it.

    :param emulator: Base URL of the emulator.
    :return: Whether it leads there.
    """
    known = airflow.connection(CONNECTION)
    if known is None:
        airflow.add_connection(CONNECTION, emulators_connection(emulator))
        return True
    host = str(known.get("host") or "")
    if host == emulator:
        return True
    if urlsplit(host).hostname != "127.0.0.1":
        return False
    airflow.move_connection(CONNECTION, emulator)  # the emulator of the last start had another port
    return True
