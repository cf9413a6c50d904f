# SPDX-License-Identifier: Apache-2.0
"""Names of objects: URIs and globs."""

from __future__ import annotations

import re


def split_uri(uri: str) -> tuple[str, str]:
    """``gs://bucket/name`` -> its two parts; ValueError for anything else."""
    match = re.fullmatch(r"gs://([^/]+)/?(.*)", uri, re.DOTALL)
    if match is None:
        raise ValueError(uri)
    return match[1], match[2]


def glob_pattern(glob: str) -> re.Pattern[str]:
    """``matchGlob`` as a pattern: ``*`` and ``?`` stop at a slash, ``**`` does not, ``{a,b}`` and ``[...]`` work."""
    out = ""
    depth = 0
    rest = glob
    while rest:
        # Also nothing: `a/**/b` matches `a/b`.
        if rest.startswith("**/"):
            piece, out = "**/", out + "(?:.*/)?"
        elif rest.startswith("**"):
            piece, out = "**", out + ".*"
        elif rest[0] == "[" and "]" in rest:
            piece = rest[: rest.index("]") + 1]
            out += piece.replace("[!", "[^")
        elif rest[0] == "\\" and len(rest) > 1:
            piece, out = rest[:2], out + re.escape(rest[1])
        else:
            piece = rest[0]
            if piece == "{":
                depth += 1
            simple = {
                "*": "[^/]*",
                "?": "[^/]",
                "{": "(?:",
                "}": ")" if depth else r"\}",
                ",": "|" if depth else ",",
            }
            if piece == "}" and depth:
                depth -= 1
            out += simple.get(piece) or re.escape(piece)
        rest = rest[len(piece) :]
    return re.compile(out, re.DOTALL)
