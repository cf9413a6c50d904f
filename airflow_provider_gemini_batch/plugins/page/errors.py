# SPDX-License-Identifier: Apache-2.0
"""What a view answers with when it cannot show what was asked for."""

from __future__ import annotations


class PageError(Exception):
    """
    Ends a view: the page shows *title* and *text*.

    :param status: HTTP status.
    :param kind: How it is shown: ``error``, ``locked`` or ``empty``.
    """

    def __init__(self, status: int, title: str, text: str, *, kind: str = "error") -> None:
        super().__init__(f"{title} {text}")
        self.status = status
        self.title = title
        self.text = text
        self.kind = kind


class Refused(PageError):
    """
    The viewer may not do this.

    :param what: What is missing, e.g. ``read on the DAG nightly``.
    """

    def __init__(self, title: str, what: str) -> None:
        super().__init__(403, title, f"This page follows Airflow's permissions. Ask for {what}.", kind="locked")


class BadAddress(PageError):
    """A parameter is missing, or is not what it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(400, "This address is not complete", text)


class NotHere(PageError):
    """What was asked for does not exist, or no longer."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__(404, title, text, kind="empty")
