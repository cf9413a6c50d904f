# SPDX-License-Identifier: Apache-2.0
"""The part of the Cloud Storage JSON API that batch jobs need."""

from gemini_batch_emulator.storage.names import glob_pattern, split_uri
from gemini_batch_emulator.storage.store import GRANULE, ObjectStore, object_store

__all__ = ["GRANULE", "ObjectStore", "glob_pattern", "object_store", "split_uri"]
