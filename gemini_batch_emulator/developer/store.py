# SPDX-License-Identifier: Apache-2.0
"""Files of the Developer API: uploaded ones, uploads under way, and the output files of jobs."""

# Bytes go to disk as they arrive. The output of a job is a file that can only be downloaded: its id is longer than what
# get and delete accept. Source: https://ai.google.dev/api/files.

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gemini_batch_emulator.clock import timestamp
from gemini_batch_emulator.errors import GoogleError

if TYPE_CHECKING:
    from pathlib import Path

    from gemini_batch_emulator.jobs import Job
    from gemini_batch_emulator.state import EmulatorState

MAX_ID = 40
FILE_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@dataclass
class StoredFile:
    """An uploaded file."""

    name: str
    display_name: str
    mime_type: str
    path: Path
    size: int
    sha256: str
    created: float
    number: int
    polls: int = 0


@dataclass
class UploadSession:
    """A resumable upload; *received* counts what is on disk."""

    file: dict[str, Any]
    path: Path
    total: int | None
    mime_type: str
    received: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    outcome: dict[str, Any] | None = None
    is_cancelled: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class FileStore:
    """Uploaded files, upload sessions, and the output files of jobs."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state
        self._numbers = 0
        self.files: dict[str, StoredFile] = {}
        self.uploads: dict[str, UploadSession] = {}
        self.outputs: dict[str, tuple[Path, Job]] = {}

    def find(self, name: str) -> StoredFile | None:
        """Return a file by its resource name, None if there is none or if it has expired."""
        found = self.files.get(name)
        if found is None:
            return None
        # Expired when it is looked at: 48 hours after its upload, and nothing runs in the background.
        if self._state.now() >= found.created + self._state.config.file_lifetime_seconds:
            self.remove(found)
            return None
        return found

    def get(self, name: str) -> StoredFile:
        """
        Return a file by its resource name.

        :raises GoogleError: 400 for an id that is too long, 403 for a file that does not exist.
        """
        file_id = name.removeprefix("files/")
        if len(file_id) > MAX_ID:
            raise GoogleError(
                400,
                f"* GetFileRequest.name: the file id must be at most {MAX_ID} characters long, but it is "
                f"{len(file_id)} characters long.",
            )
        found = self.find(name)
        if found is None:
            # 403 and not 404: the service does not tell a file that is gone from one of somebody else's.
            raise GoogleError(403, f"You do not have permission to access the File {file_id} or it may not exist.")
        return found

    def state_of(self, stored: StoredFile) -> str:
        """Return the file's state as of its reads so far."""
        # Counted in reads and not in seconds, so that a test need not wait. Files of JSON lines are ACTIVE at once, as
        # captures show; the knob is for clients that must not count on it.
        if stored.polls < self._state.config.file_processing_polls:
            return "PROCESSING"
        return self._state.config.file_state

    def check_name(self, name: str | None) -> str:
        """
        Return the resource name of a new file, made up unless the caller chose one.

        :raises GoogleError: If the caller's name cannot be, or is taken.
        """
        if not name:
            return f"files/{self._state.new_id(12)}"
        file_id = name.removeprefix("files/")
        if len(file_id) > MAX_ID or not FILE_ID.fullmatch(file_id):
            raise GoogleError(
                400,
                f"* CreateFileRequest.file.name: must be at most {MAX_ID} lowercase alphanumeric characters or dashes, "
                "and cannot begin or end with a dash.",
            )
        # Not documented; other services of Google answer so to a name that is taken.
        if self.find(f"files/{file_id}") is not None:
            raise GoogleError(409, f"File files/{file_id} already exists.", "ALREADY_EXISTS")
        return f"files/{file_id}"

    def add(self, path: Path, *, name: str, display_name: str, mime_type: str, size: int, sha256: str) -> StoredFile:
        """Keep a file that lies at *path*."""
        self._numbers += 1
        stored = StoredFile(name, display_name, mime_type, path, size, sha256, self._state.now(), self._numbers)
        self.files[name] = stored
        return stored

    def remove(self, stored: StoredFile) -> None:
        """Forget a file; a job that reads it has a link of its own."""
        self.files.pop(stored.name, None)
        stored.path.unlink(missing_ok=True)


def file_store(state: EmulatorState) -> FileStore:
    """Return the files of *state*."""
    return state.room("files", lambda: FileStore(state))


def file_resource(state: EmulatorState, stored: StoredFile, base_url: str, version: str) -> dict[str, Any]:
    """Write a file as the service does; the hash is base64 of the hexadecimal text."""
    resource = {
        "name": stored.name,
        "mimeType": stored.mime_type,
        "sizeBytes": str(stored.size),
        "createTime": timestamp(stored.created, 6),
        "updateTime": timestamp(stored.created, 6),
        "expirationTime": timestamp(stored.created + state.config.file_lifetime_seconds),
        # As captured; the reference says base64 of the raw bytes.
        "sha256Hash": base64.b64encode(stored.sha256.encode()).decode(),
        "uri": f"{base_url}/{version}/{stored.name}",
        "state": file_store(state).state_of(stored),
        "source": "UPLOADED",
    }
    if stored.display_name:
        resource["displayName"] = stored.display_name
    if resource["state"] == "FAILED":
        resource["error"] = {"code": 3, "message": "Failed to process the file."}  # type: ignore[assignment]
    return resource
