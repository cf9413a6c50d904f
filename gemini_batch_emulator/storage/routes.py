# SPDX-License-Identifier: Apache-2.0
"""
The routes of Cloud Storage: buckets, objects and uploads below ``/storage/v1``, ``/upload/storage/v1`` and
``/download/storage/v1``.
"""

# Not served: versions of an object beyond the live one, rewrite, compose, ACLs, notifications, and `crc32c` (`md5Hash`
# is there; without a C library the other costs seconds per gigabyte).

from __future__ import annotations

from typing import TYPE_CHECKING

from gemini_batch_emulator.storage.buckets import Buckets
from gemini_batch_emulator.storage.objects import Objects
from gemini_batch_emulator.storage.uploads import Uploads

if TYPE_CHECKING:
    from starlette.routing import Route

    from gemini_batch_emulator.state import EmulatorState


def routes(state: EmulatorState) -> list[Route]:
    """The routes."""
    return [*Buckets(state).routes(), *Objects(state).routes(), *Uploads(state).routes()]
