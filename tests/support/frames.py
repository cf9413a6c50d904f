# SPDX-License-Identifier: Apache-2.0
"""What a tool that reports errors with their local variables would send."""

from __future__ import annotations


def frames_of(error: BaseException) -> list[tuple[str, str]]:
    """Return place and local variables of every frame on an error and what is chained to it, but for those of tests."""
    found: list[tuple[str, str]] = []
    links: list[BaseException] = [error]
    for link in links:
        links += [one for one in (link.__cause__, link.__context__) if one is not None and one not in links]
        trace = link.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if "/tests/" not in code.co_filename:
                found.append((f"{code.co_filename}:{code.co_name}", repr(dict(trace.tb_frame.f_locals))))
            trace = trace.tb_next
    return found
