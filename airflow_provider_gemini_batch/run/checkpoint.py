# SPDX-License-Identifier: Apache-2.0
"""What a run remembers between attempts, workers and rounds: a folder of files that are never changed."""

# The layout:
#
#     <checkpoint_path>/<dag>/<task>/<task half of the token>/
#         g1/                         a generation: from one reading of the input to one publication of the outputs
#             snapshot.json           names the files below it; created once
#             data-*.parquet          row numbers, key columns, kept columns
#             narrow-*.parquet        row number, digest, size of each row
#             requests-*.jsonl.zst    the requests, in chunks of consecutive rows
#             round-1.json            the shards of a round; created once
#             rows-*.parquet          the rows of a round that does not ask all
#             intent-r1.s0-*.json     before each submission
#             void-r1.s0-*.json       after a create call that was clearly refused
#             job-r1.s0-*.json        the name of a shard's job
#             collected-r1.s0-*.json  names the files with a job's answers
#             answers-*.jsonl.zst, outcomes-*.parquet
#             given-up.json           no job is created here any more; created once
#             end.json                how the generation ended; created once
#
# A file is either named by its content, or created if absent: what is there is true, and the state is the union of what
# is there. Nothing depends on the order in which files are listed, and a file that is listed late is only known late.
#
# Two attempts may disagree on whether a generation goes on: an older one that still runs creates jobs, and a younger
# one, which asks something else, gives it up. Each of them first writes and then reads:
#
#     older attempt                         younger attempt
#     ------------------------------------  ---------------------------------------------------------
#     writes intent-r1.s0                   writes given-up.json
#     reads given-up.json: not there        reads the intents: r1.s0 is being created
#     creates the job                       waits until that job is listed, and writes end.json after that
#
# Whichever way their lines mix, at least one of them sees what the other one wrote: the job is not made, or is found.

from __future__ import annotations

import bisect
import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_gemini_batch.errors import ConfigurationError, GeminiBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_provider_gemini_batch.files.folder import Folder

TARGETS = "_targets"
"""Name of the folder in which the files that a task's runs write are claimed."""

KINDS = ("intent", "void", "job", "collected")
"""Kinds of notes about a shard."""

_GENERATION = re.compile(r"g([1-9]\d*)")
_ROUND = re.compile(r"round-([1-9]\d*)\.json")
_SHARD_FILE = re.compile(r"(intent|void|job|collected)-(r[1-9]\d*\.s\d+)-[0-9a-f]+\.json")

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class CheckpointLostError(GeminiBatchError):
    """This worker does not see the checkpoint that another one wrote; a retry, on that host perhaps, may see it."""


@dataclass(frozen=True)
class Left:
    """
    What an earlier attempt says of the checkpoint that it left, in a place that all workers see.

    :param generation: Its number.
    :param host: Who wrote it; empty if it was not noted.
    """

    generation: int
    host: str = ""

    @classmethod
    def read(cls, carried: Mapping[str, Any]) -> Left | None:
        """Read what an attempt has carried over a wait or left in a store; None if it says nothing of a checkpoint."""
        generation, host = carried.get("generation"), carried.get("host")
        if not isinstance(generation, int):
            return None
        return cls(generation, host if isinstance(host, str) else "")

    def is_in(self, header: Mapping[str, Any] | None) -> bool:
        """Whether this is the snapshot that was left: a folder that is not shared may hold one of its own."""
        return header is not None and self.host in ("", header.get("host"))


def folder_of(root: str, dag_id: str, task_id: str, task_half: str) -> str:
    """Return the place of a run's checkpoint below *root*."""
    return "/".join([root.rstrip("/"), _name(dag_id), _name(task_id), task_half])


def half_in_use(halves: Sequence[str], folder_for: Callable[[str], Folder]) -> str:
    """
    Return the task half under which a run has begun, or the first one if it has not.

    A run whose identity changed between two attempts goes on under its former one, by which its checkpoint and its jobs
    are found.

    :param halves: The task half of now, then former ones.
    :param folder_for: Returns the folder of a task half.
    """
    return next((half for half in halves if folder_for(half).folders()), halves[0])


def _name(text: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip(".") or "_"
    return safe if len(safe) <= 100 else f"{safe[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class Checkpoint:
    """
    A run's checkpoint, one generation of it at a time.

    :param folder: Of the task instance.
    :param number: Generation, from 1.
    """

    def __init__(self, folder: Folder, number: int) -> None:
        self.root = folder
        self.number = number
        self.folder = folder.below(f"g{number}")
        self._names: set[str] = set()
        """Notes that this worker has written or seen: no listing takes them back."""
        self._notes: dict[str, dict[str, list[dict[str, Any]]]] = {kind: {} for kind in KINDS}
        self._known: dict[tuple[str, str], list[str]] = {}
        self._unread: set[str] = set()
        self._kept: dict[str, dict[str, Any]] = {}
        """Files that are created once, as read before."""
        self.journal: list[tuple[str, str]] = []
        """Kind and shard of each note, in the order in which this worker learnt of them."""

    @classmethod
    def latest(cls, folder: Folder) -> Checkpoint:
        """Return the newest generation, or the first one if there is none."""
        numbers = [int(found[1]) for name in folder.folders() if (found := _GENERATION.fullmatch(name))]
        return cls(folder, max(numbers, default=1))

    @classmethod
    def all(cls, folder: Folder) -> list[Checkpoint]:
        """Return all generations that there are, newest first."""
        latest = cls.latest(folder)
        return [latest, *latest.older()]

    def next_generation(self) -> Checkpoint:
        """Return the generation after this one."""
        return Checkpoint(self.root, self.number + 1)

    def older(self) -> Iterator[Checkpoint]:
        """Yield the generations before this one, newest first."""
        for number in range(self.number - 1, 0, -1):
            yield Checkpoint(self.root, number)

    # --- files --------------------------------------------------------------------------------------------------------

    def create(self, name: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Publish a file unless another worker has; return what is there now."""
        content = _encode(value)
        # Decoded again, so that the winner sees what the others will read.
        if self.folder.create(name, content):
            return _decode(content)
        found = self.get(name)
        if found is None:
            raise CheckpointLostError(f"{self.folder.path(name)} was created by another worker and cannot be read yet.")
        return found

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a file's content, or None if there is no such file."""
        content = self.folder.read(name)
        return None if content is None else self._read(name, content)

    def _read(self, name: str, content: bytes) -> dict[str, Any]:
        try:
            return _decode(content)
        except msgspec.MsgspecError as fault:
            raise ConfigurationError(f"{self.folder.path(name)} was not written by this provider ({fault}).") from fault

    def put(self, kind: str, suffix: str, local: str) -> str:
        """Publish a local file, and return the name it got from its content."""
        name = f"{kind}-{digest_of(local)}{suffix}"
        self.folder.put(name, local)
        return name

    def note(self, kind: str, shard: str, value: Mapping[str, Any]) -> None:
        """Publish a small fact about a shard; the same fact twice is one."""
        content = _encode(value)
        # Named by its content, so that a note is never overwritten, and writing it twice is the same as once.
        name = f"{kind}-{shard}-{hashlib.sha256(content).hexdigest()[:16]}.json"
        self.folder.create(name, content)
        self._learn(name)

    def _learn(self, *names: str) -> None:
        new = {name for name in names if name not in self._names and _SHARD_FILE.fullmatch(name)}
        self._names |= new
        self._unread |= new

    def notes(self, *, look: bool = True) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """
        Return all facts about shards: by kind, then by shard.

        A note never changes, so that each is read once, however many there are.

        :param look: Whether to look for notes of other workers; without it, what is known already.
        """
        if look:
            self._learn(*self.folder.names())
        for name in sorted(self._unread):
            match = _SHARD_FILE.fullmatch(name)
            if match is not None and (value := self.get(name)) is not None:
                self._unread.discard(name)
                kind, shard = match[1], match[2]
                # In the order of their names, whoever learns of them when: all workers choose alike.
                names = self._known.setdefault((kind, shard), [])
                place = bisect.bisect(names, name)
                names.insert(place, name)
                self._notes[kind].setdefault(shard, []).insert(place, value)
                self.journal.append((kind, shard))
        return {kind: dict(found) for kind, found in self._notes.items()}

    def noted(self) -> list[str]:
        """Return the names of the notes that say whose answers there are."""
        self.notes()
        return sorted(name for name in self._names if name.startswith("collected-"))

    def finish(self, value: Mapping[str, Any]) -> None:
        """End the generation; names all notes, as the next one may list some of them late."""
        self.notes()
        self.create("end.json", {**value, "notes": sorted(self._names)})

    def collected(self) -> list[dict[str, Any]]:
        """Return what notes say of all answers of a generation that has ended."""
        self._learn(*((self.end or {}).get("notes") or ()))
        return [note for found in self.notes()["collected"].values() for note in found]

    # --- the parts that are created once ------------------------------------------------------------------------------

    @property
    def snapshot(self) -> dict[str, Any] | None:
        """The snapshot's header, or None before the input was read."""
        return self._once("snapshot.json")

    @property
    def end(self) -> dict[str, Any] | None:
        """How the generation ended, or None while it has not."""
        return self._once("end.json")

    def give_up(self, now: float) -> None:
        """
        Say that no job is to be created in this generation any more.

        :param now: UTC epoch seconds.
        """
        self.create("given-up.json", {"at": now})

    @property
    def is_given_up(self) -> bool:
        """Whether an attempt has given the generation up, or it has ended."""
        return self.end is not None or self._once("given-up.json") is not None

    def check_goes_on(self) -> None:
        """Raise GeminiBatchError if the generation is given up: nobody would bring in what is asked now."""
        if self.is_given_up:
            raise GeminiBatchError(f"{self.folder.place} is given up: nothing more is submitted.")

    def rounds(self) -> list[dict[str, Any]]:
        """Return the rounds that are published, in order."""
        found: list[dict[str, Any]] = []
        while (value := self._once(f"round-{len(found) + 1}.json")) is not None:
            # Each round was cut when all answers before it were noted, also where they are listed late.
            self._learn(*(value.get("notes") or ()))
            found.append(value)
        return found

    def _once(self, name: str) -> dict[str, Any] | None:
        """Return the content of a file that never changes once it is there."""
        if name not in self._kept and (value := self.get(name)) is not None:
            self._kept[name] = value
        return self._kept.get(name)


ABANDONED = 37 * 24 * 3600.0
"""Seconds after which nobody goes on with a run: its timeout, and a week."""


def sweep(task_folder: Folder, older_than: float, keep: str = "", *, dry_run: bool = False) -> list[str]:
    """
    Remove the checkpoints of runs that ended long ago, and of those that nobody goes on with.

    :param task_folder: Of a task; it holds a folder for each of its runs.
    :param older_than: UTC epoch seconds.
    :param keep: Name of the folder that stays in any case.
    :param dry_run: Remove nothing.
    :return: Names of the folders that were, or would be, removed.
    """
    removed = []
    for name in task_folder.folders():
        if name in (keep, TARGETS):
            continue
        latest = Checkpoint.latest(task_folder.below(name))
        end, begun = latest.end, latest.snapshot
        # A run that has ended is kept for a while, for a clear that takes its answers over; one that has not, for as
        # long as somebody may go on with it.
        if end is not None:
            is_old = float(end.get("ended") or 0) < older_than
        else:
            is_old = begun is not None and float(begun.get("created") or 0) < min(older_than, time.time() - ABANDONED)
        if is_old:
            removed.append(name)
            if not dry_run:
                task_folder.below(name).remove()
    return removed


def sweep_all(root: Folder, older_than: float, *, dry_run: bool = False) -> list[str]:
    """
    Remove old checkpoints of all tasks.

    :param root: What ``checkpoint_path`` names: a folder for each DAG, and in that one for each task.
    :return: Places of the folders that were, or would be, removed.
    """
    removed = []
    for dag in root.folders():
        for task in root.below(dag).folders():
            folder = root.below(dag).below(task)
            removed += [folder.path(name) for name in sweep(folder, older_than, dry_run=dry_run)]
    return removed


def digest_of(local: str) -> str:
    """Return 32 hex digits that name a local file's content."""
    with open(local, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
