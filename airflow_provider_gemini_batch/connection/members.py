# SPDX-License-Identifier: Apache-2.0
"""The members of a connection's extra, each read as the type it should have, and what is wrong with them."""

# A message may name a member and show a short value of it, but never what may be a secret: `Members.complaint` takes
# out every secret of the connection and whatever looks like a key, wherever a person has put it.

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_gemini_batch.connection.form import CONNECTION_TYPE, EXTRA_FIELDS, label_of

GOOGLE_CONNECTION_TYPE = "google_cloud_platform"

OTHER_NAMES = {
    "project": "project_id",
    "quota_project": "quota_project_id",
    "max_retries": "num_retries",
    "scopes": "scope",
}
"""Names that the Google provider's connection has for members of ours."""

_GOOGLE_ONLY = (
    "key_secret_name",
    "key_secret_project_id",
    "idp_issuer_url",
    "client_id",
    "client_secret",
    "idp_extra_parameters",
)
_PREFIXES = (f"extra__{GOOGLE_CONNECTION_TYPE}__", f"extra__{CONNECTION_TYPE}__")
# API keys, access tokens, private keys; keys lose their capitals where they are taken for a host.
_LOOKS_SECRET = re.compile(r"AIza[\w-]{16,}|\bAQ\.[\w-]{16,}|ya29\.[\w.-]{8,}|-----BEGIN[^-]*-----[^-]*", re.IGNORECASE)


def looks_like_a_key(text: str) -> bool:
    """Return whether a text holds what looks like an API key or a token."""
    return _LOOKS_SECRET.search(text) is not None


class Members:
    """
    One reading of a connection: typed access to its extra, and the problems found on the way.

    :param extra: The connection's extra, decoded.
    """

    def __init__(self, extra: Mapping[str, Any]) -> None:
        self._extra = extra
        self.problems: list[str] = []

    def bad(self, name: str, problem: str) -> None:
        """Note a problem with the field *name*."""
        self.problems.append(f"{label_of(name)}: {problem}")

    def raw(self, name: str) -> Any:
        """Return a member under any of its names, None if it is not set; its empty forms count as not set."""
        # Our own name wins over Google's, and a bare name over a prefixed one: the newer spelling is what a person saw
        # last.
        for known in (name, OTHER_NAMES.get(name, name)):
            for prefix in ("", *_PREFIXES):
                value = self._extra.get(f"{prefix}{known}")
                # Forms send an empty text for an empty field, and pasted values come with blanks around them.
                if isinstance(value, str):
                    value = value.strip()
                if value is not None and value not in ("", [], {}):
                    return value
        return None

    def text(self, name: str) -> str:
        """Read a text; empty if it is not set."""
        value = self.raw(name)
        if value is None:
            return ""
        if not isinstance(value, str | int) or isinstance(value, bool):
            self.bad(name, f"must be text, not {kind_of(value)}.")
            return ""
        return str(value)

    def flag(self, name: str) -> bool:
        """Read true or false; false if it is not set."""
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        word = str(value).lower()
        if word in ("true", "1", "yes", "on", "t", "y"):
            return True
        if word not in ("false", "0", "no", "off", "f", "n"):
            self.bad(name, f"{shown(value)} is neither true nor false.")
        return False

    def words(self, name: str) -> tuple[str, ...]:
        """Read a list, or a string with commas or a JSON list in it."""
        value = self.raw(name)
        if value is None:
            return ()
        if isinstance(value, str):
            if value.startswith("["):
                try:
                    value = json.loads(value)
                except ValueError:
                    self.bad(name, "begins like a JSON list but is none.")
                    return ()
            else:
                value = value.split(",")
        if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
            self.bad(name, "must be a list of texts, or one text with commas.")
            return ()
        return tuple(word.strip() for word in value if word.strip())

    def number(self, default: float, name: str, *, whole: bool, least: float) -> float:
        """Read a number, *default* if it is not set or none."""
        value = self.raw(name)
        if value is None:
            return default
        kind = "a whole number" if whole else "a number of seconds"
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            self.bad(name, f"must be {kind}, not {shown(value)}.")
            return default
        if not math.isfinite(number) or number < least or (whole and number != int(number)):
            least_words = "above 0" if least <= 0 or not whole else f"at least {least:g}"
            self.bad(name, f"must be {kind} {least_words}, not {shown(value)}.")
            return default
        return number

    def json_object(self, name: str) -> dict[str, Any] | None:
        """Read a JSON object, or text that holds one; None if it is not set or none."""
        value = self.raw(name)
        if value is None or isinstance(value, Mapping):
            return None if value is None else dict(value)
        try:
            found = json.loads(value)
            # A key that was pasted into JSON as text is JSON twice.
            found = json.loads(found) if isinstance(found, str) else found
        except (TypeError, ValueError):
            self.bad(name, "is not JSON; paste the whole content of the file.")
            return None
        if not isinstance(found, dict):
            self.bad(name, f"must be a JSON object, not {kind_of(found)}.")
            return None
        return found

    def unknown(self, conn_type: str) -> list[str]:
        """
        Say which members are not known, and which known one may be meant.

        A connection of Google's type has members for other purposes: there only what is nearly a name of ours is said.
        """
        known = [*EXTRA_FIELDS, *OTHER_NAMES.values(), *_GOOGLE_ONLY]
        said = []
        for spelling in self._extra:
            name = str(spelling)
            for prefix in _PREFIXES:
                name = name.removeprefix(prefix)
            if name in known or name.startswith("__"):
                continue
            # A typo in an extra has no effect and no error: `storage_url` instead of `storage_uri` shows hours later,
            # as a missing bucket.
            near = difflib.get_close_matches(name.lower().replace("-", "_"), EXTRA_FIELDS, 1, 0.75)
            if near:
                said.append(f"Extra {name!r} is not known and has no effect; {near[0]!r} may be meant.")
            elif conn_type == CONNECTION_TYPE:
                said.append(f"Extra {name!r} is not known and has no effect.")
        return said

    def complaint(self, conn_id: str, secrets: Iterable[str]) -> str:
        """Return all problems as one text, without anything secret; empty if there is none."""
        if not self.problems:
            return ""
        listing = "".join(f"\n  - {problem}" for problem in self.problems)
        return without_secrets(f"Connection {conn_id!r} cannot work:{listing}", secrets)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return *text* with *secrets*, and what looks like one, blotted out."""
    # The longest first, as one secret may be part of another.
    for secret in sorted(set(secrets), key=len, reverse=True):
        # Anything shorter may be part of ordinary words, and no real key is so short.
        if len(secret) >= 6:
            text = re.sub(re.escape(secret), "***", text, flags=re.IGNORECASE)
    return _LOOKS_SECRET.sub("***", text)


def kind_of(value: Any) -> str:
    """Name the JSON type of a value."""
    kinds = {dict: "an object", list: "a list", bool: "true or false", str: "text", int: "a number", float: "a number"}
    return kinds.get(type(value), "null" if value is None else type(value).__name__)


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
