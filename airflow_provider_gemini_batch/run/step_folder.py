# SPDX-License-Identifier: Apache-2.0
"""Where does a step keep what it works on? In a local folder of its own, removed after it, or by the next run."""

# A worker that is killed leaves its folder, with prompts and answers of users in it, and some gigabytes of a large run.
# Whether somebody works in a folder is told by a lock on a file in it, which the kernel takes back from whoever dies.
# A process id would not do: containers that share a disk count their processes apart.

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "gemini-batch-run-"
LOCK = "lock"
YOUNG = 60.0
"""Seconds within which a folder's owner may not have locked it yet."""


@contextlib.contextmanager
def step_folder() -> Iterator[str]:
    """Yield an empty local folder; it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, open(os.path.join(folder, LOCK), "wb") as held:
        # A disk without locks: nobody tells this folder from one that is left, so that nobody removes it.
        if not _lock(held.fileno()):
            os.unlink(held.name)
        yield folder


def remove_abandoned() -> None:
    """Remove the folders of this user's workers that were killed on this host."""
    place = tempfile.gettempdir()
    with contextlib.suppress(OSError):
        for name in os.listdir(place):
            if name.startswith(PREFIX):
                with contextlib.suppress(OSError):  # another worker removes it, too
                    _remove_if_abandoned(os.path.join(place, name))


def _remove_if_abandoned(folder: str) -> None:
    # Others may write to the folder for temporary files: only what is our own is looked into, and no link is followed.
    found = os.lstat(folder)
    if found.st_uid != os.geteuid():
        return
    file = os.open(os.path.join(folder, LOCK), os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if time.time() - os.fstat(file).st_mtime > YOUNG and _lock(file):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
