# SPDX-License-Identifier: Apache-2.0
"""Buttons on a task in Airflow's UI: its job at Google, its results, its input, and the page."""

# Airflow 3 asks a link for its address when the task stops, and keeps the answer as an XCom from which the UI reads. A
# task that waits in the worker for hours has not stopped. So tasks push each address themselves, under the same key, as
# soon as they know it; when they stop, `GeminiBatchLink.get_link` gives the same answer again. A task that resumes
# shows its links anew, as what it does not know would be overwritten with nothing. Airflow 2.11 calls `get_link` in the
# webserver, which reads that XCom.
#
# An address that leads nowhere is worse than none: the Developer API has no page of a job, and what an emulator keeps
# is not in Google's console. Such a link has no address, and the UI shows no button.

from __future__ import annotations

import logging
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

from airflow_provider_gemini_batch.compat import BaseOperatorLink
from airflow_provider_gemini_batch.plugins.page.google import google_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_gemini_batch.api.models import BatchJob
    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings

log = logging.getLogger(__name__)

_CONSOLE = "https://console.cloud.google.com"


class GeminiBatchLink(BaseOperatorLink):
    """Base of the links: the address is what the task pushed under :attr:`xcom_key`."""

    name: ClassVar[str]
    key: ClassVar[str]

    @property
    def xcom_key(self) -> str:
        """XCom key of the address."""
        return self.key

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """
        Return the address, or an empty text if there is none.

        :param operator: The task that ran here, which remembers its addresses; or what Airflow knows of one elsewhere.
        """
        if isinstance(operator, Linked):
            # Not from XCom: Airflow logs each XCom that is not there as an error.
            return operator.shown_links.get(self.key, "")
        from airflow_provider_gemini_batch.compat import XCom

        return str(XCom.get_value(ti_key=ti_key, key=self.key) or "")


class JobLink(GeminiBatchLink):
    """The job in Google's console (Vertex AI; the Developer API has no such page)."""

    name = "Job at Google"
    key = "gemini_batch_link_job"


class ResultsLink(GeminiBatchLink):
    """The answers: on the page where they were landed, else in Google's console."""

    name = "Results"
    key = "gemini_batch_link_results"


class InputLink(GeminiBatchLink):
    """The rows that the job reads, in Google's console."""

    name = "Input"
    key = "gemini_batch_link_input"


class PageLink(GeminiBatchLink):
    """The page of this task, or of its connection's jobs."""

    name = "Gemini batch"
    key = "gemini_batch_link_page"


def place_url(place: str | None) -> str:
    """Return the address of ``gs://...`` or ``bq://...`` in Google's console; empty for any other place."""
    scheme, separator, rest = (place or "").partition("://")
    if not separator or not rest:
        return ""
    if scheme == "gs":
        bucket, _, name = rest.partition("/")
        page = "browser/_details" if re.search(r"\.[a-z]+$", name) else "browser"
        return f"{_CONSOLE}/storage/{page}/{quote(bucket)}/{quote(name)}".rstrip("/")
    names = rest.split(".")
    if scheme != "bq" or len(names) < 2:
        return ""
    project, dataset, *table = (quote(name, safe="") for name in names)
    shown = f"&t={table[0]}&page=table" if table else "&page=dataset"
    return f"{_CONSOLE}/bigquery?project={project}&p={project}&d={dataset}{shown}"


def is_at_google(settings: ConnectionSettings) -> bool:
    """Say whether jobs of a connection can be in Google's console: an emulator is reached by plain HTTP."""
    return settings.base_url.startswith("https://")


def job_links(job: BatchJob, settings: ConnectionSettings) -> dict[type[GeminiBatchLink], str]:
    """Return the addresses that are known of a job."""
    if not is_at_google(settings):
        return {}
    return {
        JobLink: google_url(job.name),
        InputLink: place_url(job.input_place),
        ResultsLink: place_url(job.output.place if job.output is not None else None),
    }


class Linked:
    """
    Goes before Airflow's ``BaseOperator``: the links of our operators and the sensor.

    Pushing never fails a task: a link is a convenience.
    """

    operator_extra_links: Any = (JobLink(), ResultsLink(), InputLink(), PageLink())
    page_view: ClassVar[Literal["run", "jobs"]] = "jobs"
    """What of the page the task leads to: its run, or all jobs of its connection."""
    shown_links: Mapping[str, str] = MappingProxyType({})
    gemini_batch_conn_id: str

    def show_links(self, ti: Any, addresses: Mapping[type[GeminiBatchLink], str]) -> None:
        """
        Push addresses, so that Airflow's UI shows them from now on.

        :param ti: Airflow's task instance, or None for none.
        :param addresses: By link; empty ones are left out.
        """
        for link, address in addresses.items():
            # Once for each address: a sensor that pokes for days would push the same XCom thousands of times.
            if ti is None or not address or self.shown_links.get(link.key) == address:
                continue
            try:
                ti.xcom_push(key=link.key, value=address)
            except Exception as error:
                # Not the task's log, which goes through the supervisor, and that may be gone.
                log.warning("The link %r could not be pushed: %s", link.name, type(error).__name__)
                return
            self.shown_links = {**self.shown_links, link.key: address}

    def show_page(self, ti: Any) -> None:
        """Push the address of the page; before Airflow 3.1 there is none."""
        address = _task_page(ti, "run") if self.page_view == "run" else _jobs_page(self.gemini_batch_conn_id)
        self.show_links(ti, {PageLink: address})

    def show_job_name(self, ti: Any, job_name: str, settings: ConnectionSettings) -> None:
        """Push what leads to a job of which the name alone is known."""
        self.show_links(ti, {JobLink: google_url(job_name) if is_at_google(settings) else ""})

    def show_job(self, ti: Any, job: BatchJob, settings: ConnectionSettings) -> None:
        """Push what leads to a job, its input and, once there are some, its results."""
        self.show_links(ti, job_links(job, settings))

    def show_landed(self, ti: Any, output_path: str | None) -> None:
        """Push what leads to landed answers: the page, or where there is none their place in Google's console."""
        self.show_links(ti, {ResultsLink: _task_page(ti, "answers") or place_url(output_path)})


def _task_page(ti: Any, view: Literal["run", "answers"]) -> str:
    """Return the address of a view of the page for a task instance."""
    from airflow_provider_gemini_batch.plugins.page import urls

    if ti is None or not _has_page():
        return ""
    path = urls.answers_path if view == "answers" else urls.run_path
    return urls.page_url(path(urls.TaskAddress(ti.dag_id, ti.run_id, ti.task_id, getattr(ti, "map_index", -1))))


def _jobs_page(conn_id: str) -> str:
    from airflow_provider_gemini_batch.plugins.page import urls

    return urls.page_url(urls.jobs_path(conn_id)) if _has_page() else ""


def _has_page() -> bool:
    """Say whether this Airflow serves the page."""
    from airflow_provider_gemini_batch.plugins.page.registration import fastapi_apps

    return bool(fastapi_apps())
