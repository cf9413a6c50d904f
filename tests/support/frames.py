# SPDX-License-Identifier: Apache-2.0
"""What a tool that reports errors with their local variables would send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import FunctionType, ModuleType


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


def reached_from(error: BaseException) -> Iterator[tuple[str, str]]:
    """
    Yield place and text of every string that can be reached from the frames of an error and of what is chained to it.

    Attributes, slots, containers and closures are followed; modules and classes are not, nor Airflow's masker of
    secrets, which has to know them and hangs on every logger.
    """
    seen: set[int] = set()
    links: list[BaseException] = [error]
    for link in links:
        links += [one for one in (link.__cause__, link.__context__) if one is not None and one not in links]
        trace = link.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if "/tests/" not in code.co_filename:
                for name, value in list(trace.tb_frame.f_locals.items()):
                    yield from _texts(f"{code.co_name}:{name}", value, seen)
            trace = trace.tb_next


def _texts(place: str, value: object, seen: set[int]) -> Iterator[tuple[str, str]]:
    if isinstance(value, (type, ModuleType)) or id(value) in seen or place.count(".") > 12:
        return
    if type(value).__name__ == "SecretsMasker":
        return
    seen.add(id(value))
    if isinstance(value, (str, bytes, bytearray)):
        yield place, value if isinstance(value, str) else bytes(value).decode("latin-1")
        return
    inside: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        with suppress(NotImplementedError):  # a pool of urllib3, whose attributes hold the same
            inside = [(f"[{key!r:.40}]", each) for key, each in list(value.items())]
            inside += [("[key]", key) for key in list(value)]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = [("[]", each) for each in list(value)]
    if isinstance(value, FunctionType):
        inside += [("()", cell.cell_contents) for cell in value.__closure__ or ()]
    inside += list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            with suppress(AttributeError):
                inside.append((name, getattr(value, name)))
    for name, each in inside:
        yield from _texts(f"{place}.{name}", each, seen)
