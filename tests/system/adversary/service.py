# SPDX-License-Identifier: Apache-2.0
"""
Gemini batch jobs and the Cloud Storage they need, at their worst.

Written from the wire facts alone; it imports neither the provider nor the emulator, so that a wrong belief shared by
those two shows up here. What it does that a friendly server does not:

* A new job appears in the list up to ``lag`` seconds late. Each list request is answered by a replica of its own, some
  fresher than others: a job may be listed, then missing, then listed again, and its state there may be an old one.
* A call may be carried out although its answer is lost (the caller of :meth:`Service.handle` drops the reply).
* A cancelled job of the Developer API that has begun ends SUCCEEDED, its open rows with error code 1.
* Answers may appear late (404, or a directory without objects) and be fewer than the job counted.

The clock is the caller's. Nothing here sleeps.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Reply = tuple[int, dict[str, str], bytes]

NO_FILE = "You do not have permission to access the file, or it may not exist."
_FILTER_LABEL = re.compile(r"labels\.([a-z0-9_-]+)\s*=\s*\"?([a-z0-9_-]+)\"?")
_FILTER_TIME = re.compile(r"create_time\s*>=\s*\"([^\"]+)\"")


@dataclass
class Job:
    """
    A job; times are seconds of the caller's clock.

    :param begins: When its first row runs.
    :param ends: When its last row is done.
    """

    name: str
    backend: str
    display_name: str
    labels: dict[str, str]
    keys: list[str]
    created: float
    begins: float
    ends: float
    source: dict[str, Any] = field(default_factory=dict)
    destination: str = ""
    cancelled: float | None = None

    def rows_done(self, now: float) -> int:
        """Rows that have run, and are billed."""
        until = now if self.cancelled is None else min(now, self.cancelled)
        if until < self.begins:
            return 0
        share = 1.0 if until >= self.ends else (until - self.begins) / (self.ends - self.begins)
        return int(share * len(self.keys))

    def state(self, now: float) -> str:
        """PENDING, RUNNING, SUCCEEDED or CANCELLED."""
        if self.cancelled is not None and self.cancelled <= now:
            return "SUCCEEDED" if self.rows_done(now) and self.backend == "gemini" else "CANCELLED"
        if now < self.begins:
            return "PENDING"
        return "RUNNING" if now < self.ends else "SUCCEEDED"


class Service:
    """
    Both services on one host.

    :param clock: Epoch seconds.
    :param lag: Longest time in seconds until a new job is listed.
    :param duration: Draws how long a job waits and runs.
    :param late: Seconds from a job's end until its answers can be read.
    :param short: Rows that lack in the answers beside what the job counts.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        lag: float = 0.0,
        seed: int = 0,
        duration: Callable[[random.Random], tuple[float, float]] = lambda draw: (90.0, 30.0),
        late: float = 0.0,
        short: int = 0,
    ) -> None:
        self.clock = clock
        self.lag = lag
        self.duration = duration
        self.late = late
        self.short = short
        self.jobs: list[Job] = []
        self.calls: list[tuple[float, str, str]] = []
        self._draw = random.Random(seed)
        self._objects: dict[str, bytes] = {}
        self._files: dict[str, bytes] = {}
        self._sessions: dict[str, tuple[str, bytearray]] = {}

    # --- front door ---------------------------------------------------------------------------------------------------

    def handle(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """
        Answer one request.

        :param url: Path and query, or an absolute URL.
        :param headers: Names in any case.
        """
        parts = urlsplit(url)
        path, query = parts.path, {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.calls.append((self.clock(), method, path))
        head = {name.lower(): value for name, value in headers.items()}
        status, more, content = self._answer(method, path, query, head, body)
        return status, {"date": formatdate(self.clock(), usegmt=True), **more}, content

    def _answer(self, method: str, path: str, query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        for wanted, pattern, answer in self._routes:
            match = re.fullmatch(pattern, path)
            if match is not None and wanted == method:
                return answer(self, match, query, head, body)
        return _error(404, "NOT_FOUND", f"no such method: {method} {path}")

    def find(self, name: str) -> Job | None:
        """Return a job by its name."""
        return next((job for job in self.jobs if job.name == name), None)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _create_developer(
        self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes
    ) -> Reply:
        batch = json.loads(body)["batch"]
        config = batch.get("inputConfig") or batch.get("input_config") or {}
        name = config.get("fileName") or config.get("file_name")
        if name is not None:
            if name not in self._files:
                return _error(403, "PERMISSION_DENIED", NO_FILE)
            keys = [json.loads(line).get("key", "") for line in self._files[name].splitlines()]
            source: dict[str, Any] = {"fileName": name}
        else:
            keys = [(row.get("metadata") or {}).get("key", "") for row in config["requests"]["requests"]]
            source = {}
        identity = "".join(self._draw.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=36))
        job = self._new("gemini", f"batches/{identity}", batch.get("displayName", ""), {}, keys, source)
        return _ok(self._operation(job, self.clock(), listed=False))

    def _create_vertex(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        wanted = json.loads(body)
        uris = (wanted["inputConfig"].get("gcsSource") or {}).get("uris") or []
        uri = uris if isinstance(uris, str) else (uris[0] if uris else "")
        lines = self._objects.get(uri.removeprefix("gs://"), b'{"key": "a"}').splitlines()
        keys = [json.loads(line).get("key", "") for line in lines]
        name = f"{match[1]}/batchPredictionJobs/{self._draw.getrandbits(62)}"
        job = self._new(
            "vertex_ai", name, wanted.get("displayName", ""), wanted.get("labels", {}), keys, {"uris": [uri]}
        )
        prefix = (wanted.get("outputConfig", {}).get("gcsDestination") or {}).get("outputUriPrefix", "gs://out")
        job.destination = f"{prefix.rstrip('/')}/prediction-model-{_time(job.created, 6)}"
        return _ok(self._resource(job, self.clock()))

    def _new(
        self,
        backend: str,
        name: str,
        display_name: str,
        labels: dict[str, str],
        keys: list[str],
        source: dict[str, Any],
    ) -> Job:
        now = self.clock()
        waits, runs = self.duration(self._draw)
        job = Job(name, backend, display_name, labels, keys, now, now + waits, now + waits + runs, source)
        self.jobs.append(job)
        return job

    def _get_developer(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        job = self.find(match[1])
        return (
            _ok(self._operation(job, self.clock(), listed=False)) if job else _error(404, "NOT_FOUND", "no such batch")
        )

    def _get_vertex(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        job = self.find(match[1])
        return _ok(self._resource(job, self.clock())) if job else _error(404, "NOT_FOUND", "no such job")

    def _cancel(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        job, now = self.find(match[1]), self.clock()
        if job is None:
            return _error(404, "NOT_FOUND", "no such job")
        if job.cancelled is None and now < job.ends:
            job.cancelled = now
        elif job.backend == "vertex_ai" and job.cancelled is None:
            return _error(400, "FAILED_PRECONDITION", "the job has ended")
        return _ok({})

    # --- the lagging list ---------------------------------------------------------------------------------------------

    def _seen_by_a_replica(self, backend: str) -> list[tuple[Job, float]]:
        """Return what one replica knows, newest first, and as of when; another request may meet an older one."""
        now = self.clock()
        behind = self.lag * self._draw.choice((1.0, self._draw.uniform(0.5, 1.0)))
        known = [job for job in self.jobs if job.backend == backend and job.created <= now - behind]
        return [(job, now - behind) for job in sorted(known, key=lambda job: -job.created)]

    def _list_developer(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        if "pageSize" not in query:
            return _ok({})  # seen in the wild
        shown, token = _page(self._seen_by_a_replica("gemini"), query)
        reply: dict[str, Any] = {}
        if shown:
            reply["operations"] = [self._operation(job, then, listed=True) for job, then in shown]
        return _ok({**reply, **token})

    def _list_vertex(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        wanted = query.get("filter", "")
        labels = dict(_FILTER_LABEL.findall(wanted))
        since = _FILTER_TIME.search(wanted)
        after = datetime.fromisoformat(since[1].replace("Z", "+00:00")).timestamp() if since else 0.0
        kept = [
            (job, then)
            for job, then in self._seen_by_a_replica("vertex_ai")
            if job.created >= after and all(job.labels.get(name) == value for name, value in labels.items())
        ]
        shown, token = _page(kept, query)
        reply: dict[str, Any] = {}
        if shown:
            reply["batchPredictionJobs"] = [self._resource(job, then) for job, then in shown]
        return _ok({**reply, **token})

    # --- resources ----------------------------------------------------------------------------------------------------

    def _operation(self, job: Job, now: float, *, listed: bool) -> dict[str, Any]:
        state, total, done = job.state(now), len(job.keys), job.rows_done(now)
        is_over = state in ("SUCCEEDED", "CANCELLED")
        open_rows = total - done
        stats = {"requestCount": total, "successfulRequestCount": done}
        stats["failedRequestCount" if state == "SUCCEEDED" else "pendingRequestCount"] = open_rows
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": "models/some-model",
            "displayName": job.display_name,
            "createTime": _time(job.created, 9),
            "updateTime": _time(now, 9),
            "batchStats": {name: str(number) for name, number in stats.items() if number},
            "state": f"BATCH_STATE_{state}",
            "name": job.name,
        }
        if job.source:
            metadata["inputConfig"] = job.source
        operation: dict[str, Any] = {"name": job.name, "metadata": metadata}
        if is_over:
            metadata["endTime"] = _time(min(now, job.cancelled or job.ends), 9)
            operation["done"] = True
        if state == "CANCELLED":
            operation["error"] = {"code": 13, "message": "batch was cancelled"}
        if state == "SUCCEEDED" and not listed:
            if job.source:
                output: dict[str, Any] = {"responsesFile": f"files/batch-{job.name.removeprefix('batches/')}"}
            else:
                rows = [{**row, "metadata": {"key": row.pop("key")}} for row in self._rows(job, now)]
                output = {"inlinedResponses": {"inlinedResponses": rows}}
            metadata["output"] = output
            operation["response"] = {"@type": "...GenerateContentBatchOutput", **output}
        return operation

    def _resource(self, job: Job, now: float) -> dict[str, Any]:
        state = job.state(now)
        resource: dict[str, Any] = {
            "name": job.name,
            "displayName": job.display_name,
            "model": "publishers/google/models/some-model",
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": job.source},
            "labels": job.labels,
            "state": f"JOB_STATE_{state}",
            "createTime": _time(job.created, 6),
            "updateTime": _time(now, 6),
        }
        if state in ("SUCCEEDED", "CANCELLED"):
            resource["endTime"] = _time(min(now, job.cancelled or job.ends), 6)
            resource["outputInfo"] = {"gcsOutputDirectory": job.destination}
            done = job.rows_done(now)
            stats = {"successfulCount": done, "incompleteCount": len(job.keys) - done}
            resource["completionStats"] = {name: str(number) for name, number in stats.items() if number}
        if state == "CANCELLED":
            resource["error"] = {"code": 1, "message": "CANCELED"}
        return resource

    def _rows(self, job: Job, now: float) -> list[dict[str, Any]]:
        done = job.rows_done(now)
        rows: list[dict[str, Any]] = []
        for number, key in enumerate(job.keys):
            if number < done:
                parts = {"parts": [{"text": f"answer to {key}"}], "role": "model"}
                rows.append({"key": key, "response": {"candidates": [{"content": parts, "finishReason": "STOP"}]}})
            else:
                rows.append({"key": key, "error": {"code": 1, "message": "The operation was cancelled."}})
        return rows[: len(rows) - self.short] if self.short and now < job.ends + self.late else rows

    # --- answers and rows ---------------------------------------------------------------------------------------------

    def _download_developer(
        self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes
    ) -> Reply:
        job, now = self.find(f"batches/{match[1]}"), self.clock()
        if job is None or job.state(now) != "SUCCEEDED" or (not self.short and now < job.ends + self.late):
            return _error(404, "NOT_FOUND", "no such file")
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in self._rows(job, now))
        return 200, {"content-type": "application/octet-stream"}, lines

    def _list_objects(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        bucket, prefix = unquote(match[1]), query.get("prefix", "")
        self._publish()
        names = sorted(name for name in self._objects if name.startswith(f"{bucket}/{prefix}"))
        items = [self._object(name) for name in names]
        return _ok({"kind": "storage#objects", **({"items": items} if items else {})})

    def _publish(self) -> None:
        """Write the answers of every job whose time has come."""
        now = self.clock()
        for job in self.jobs:
            if job.backend != "vertex_ai" or job.state(now) != "SUCCEEDED":
                continue
            if self.short or now >= job.ends + self.late:
                lines = [
                    {"status": "", "key": row["key"], "request": {}, "response": row["response"]}
                    for row in self._rows(job, now)
                ]
                name = f"{job.destination.removeprefix('gs://')}/predictions.jsonl"
                self._objects[name] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def _object(self, name: str) -> dict[str, str]:
        content = self._objects[name]
        bucket, _, rest = name.partition("/")
        return {
            "bucket": bucket,
            "name": rest,
            "size": str(len(content)),
            "generation": str(int(hashlib.md5(content).hexdigest()[:12], 16)),
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "metageneration": "1",
        }

    def _get_object(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        self._publish()
        name = f"{unquote(match[1])}/{unquote(match[2])}"
        if name not in self._objects:
            return _error(404, "NOT_FOUND", f"No such object: {name}")
        if query.get("alt") == "media":
            return 200, {"content-type": "application/octet-stream"}, self._objects[name]
        return _ok(self._object(name))

    def _start_object(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        name = f"{unquote(match[1])}/{query.get('name') or json.loads(body)['name']}"
        if query.get("ifGenerationMatch") == "0" and name in self._objects:
            return _error(412, "FAILED_PRECONDITION", "conditionNotMet")
        session = f"s{len(self._sessions)}"
        self._sessions[session] = (name, bytearray())
        return (
            200,
            {"location": f"http://{head.get('host', 'host')}/upload/storage/v1/b/{match[1]}/o?upload_id={session}"},
            b"",
        )

    def _send_object(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        name, content = self._sessions[query["upload_id"]]
        content += body
        total = head.get("content-range", "").rpartition("/")[2]
        if total.isdigit() and len(content) < int(total):
            return 308, {"range": f"bytes=0-{len(content) - 1}"} if content else {}, b""
        self._objects[name] = bytes(content)
        return _ok(self._object(name))

    def _start_file(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        session = f"f{len(self._sessions)}"
        self._sessions[session] = (f"files/u{len(self._sessions)}", bytearray())
        url = f"http://{head.get('host', 'host')}/upload-file/{session}"
        return 200, {"x-goog-upload-url": url, "x-goog-upload-status": "active"}, b""

    def _send_file(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        name, content = self._sessions[match[1]]
        content += body
        if "finalize" not in head.get("x-goog-upload-command", ""):
            return 200, {"x-goog-upload-status": "active"}, b""
        self._files[name] = bytes(content)
        status, headers, reply = _ok({"file": self._file(name)})
        return status, {**headers, "x-goog-upload-status": "final"}, reply

    def _file(self, name: str) -> dict[str, str]:
        content, now = self._files[name], self.clock()
        digest = base64.b64encode(hashlib.sha256(content).hexdigest().encode()).decode()
        times = {"createTime": _time(now, 6), "expirationTime": _time(now + 48 * 3600, 6)}
        return {"name": name, "sizeBytes": str(len(content)), "sha256Hash": digest, "state": "ACTIVE", **times}

    def _list_files(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        return _ok({"files": [self._file(name) for name in self._files]} if self._files else {})

    def _get_file(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        if match[1] not in self._files:
            return _error(403, "PERMISSION_DENIED", NO_FILE)
        return _ok(self._file(match[1]))

    def _token(self, match: re.Match[str], query: dict[str, str], head: dict[str, str], body: bytes) -> Reply:
        return _ok({"access_token": "adversary", "token_type": "Bearer", "expires_in": 3600})

    _PROJECT = r"/v1(?:beta1)?/(projects/[^/]+/locations/[^/]+)"
    _JOB = r"/v1(?:beta1)?/(projects/[^/]+/locations/[^/]+/batchPredictionJobs/[^/:]+)"
    _routes: tuple[tuple[str, str, Callable[..., Reply]], ...] = (
        ("POST", r"/v1(?:beta)?/models/[^/]+:(?:batchGenerateContent|asyncBatchEmbedContent)", _create_developer),
        ("GET", r"/v1(?:beta)?/batches", _list_developer),
        ("GET", r"/v1(?:beta)?/(batches/[^/:]+)", _get_developer),
        ("POST", r"/v1(?:beta)?/(batches/[^/:]+):cancel", _cancel),
        ("GET", r"(?:/download)?/v1(?:beta)?/files/batch-([^/:]+):download", _download_developer),
        ("POST", _PROJECT + "/batchPredictionJobs", _create_vertex),
        ("GET", _PROJECT + "/batchPredictionJobs", _list_vertex),
        ("GET", _JOB, _get_vertex),
        ("POST", _JOB + ":cancel", _cancel),
        ("GET", r"/storage/v1/b/([^/]+)/o", _list_objects),
        ("GET", r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)", _get_object),
        ("POST", r"/upload/storage/v1/b/([^/]+)/o", _start_object),
        ("PUT", r"/upload/storage/v1/b/([^/]+)/o", _send_object),
        ("POST", r"/upload/v1(?:beta)?/files", _start_file),
        ("POST", r"/upload-file/([^/]+)", _send_file),
        ("GET", r"/v1(?:beta)?/files", _list_files),
        ("GET", r"/v1(?:beta)?/(files/[^/:]+)", _get_file),
        ("POST", r"/token", _token),
    )


def _page(jobs: list[tuple[Job, float]], query: dict[str, str]) -> tuple[list[tuple[Job, float]], dict[str, str]]:
    size, first = int(query.get("pageSize", 10)), int(query.get("pageToken") or 0)
    more = {"nextPageToken": str(first + size)} if first + size < len(jobs) else {}
    return jobs[first : first + size], more


def _time(moment: float, digits: int) -> str:
    whole = datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{int((moment % 1) * 10**digits):0{digits}d}Z"


def _ok(body: Any) -> Reply:
    return 200, {"content-type": "application/json; charset=UTF-8"}, json.dumps(body, indent=2).encode()


def _error(code: int, status: str, message: str) -> Reply:
    body = {"error": {"code": code, "message": message, "status": status}}
    return code, {"content-type": "application/json; charset=UTF-8"}, json.dumps(body).encode()
