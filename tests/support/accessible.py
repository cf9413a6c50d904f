# SPDX-License-Identifier: Apache-2.0
"""What a screen reader and a keyboard would trip over in a document, as a browser has it."""

from __future__ import annotations

from typing import Any

_LOOK = r"""
() => {
  const flaws = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const short = (e) => e.outerHTML.slice(0, 120);
  const shown = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== "hidden";
  const attribute = (e, name) => (e.getAttribute(name) || "").trim();
  const byId = (e) => document.getElementById(attribute(e, "aria-labelledby"))?.textContent.trim() || "";
  const byLabel = (e) => [...(e.labels || [])].map((label) => label.textContent).join("").trim();
  const words = (e) => e.textContent.trim() || attribute(e, "title");
  const named = (e) => attribute(e, "aria-label") || byId(e) || byLabel(e) || words(e);
  const twice = (values) => [...new Set(values)].filter((one) => values.filter((each) => each === one).length > 1);
  const each = (selector, is, what) => {
    for (const e of all(selector)) if (is(e)) flaws.push(`${what}: ${short(e)}`);
  };

  if (!document.documentElement.lang) flaws.push("the document names no language");
  if (!document.title.trim()) flaws.push("the document has no title");
  if (all("main").length !== 1 || all("main[role]").length) flaws.push("there is not one main landmark");
  for (const id of twice(all("[id]").map((e) => e.id))) flaws.push(`the id ${id} is there twice`);

  const levels = all("h1, h2, h3, h4, h5, h6").filter(shown).map((e) => Number(e.tagName[1]));
  if (levels[0] !== 1 || levels.lastIndexOf(1) !== 0) flaws.push(`headings are ${levels}: not one h1, first`);
  levels.forEach((level, at) => { if (at && level > levels[at - 1] + 1) flaws.push(`headings are ${levels}`); });

  const controls = "a[href], button, input:not([type=hidden]), select, textarea, summary";
  each(`${controls}, nav, dialog[open], [role=region]`, (e) => shown(e) && !named(e), "has no name");
  each("th", (e) => !e.textContent.trim() && !e.querySelector("[aria-label]"), "an empty header");
  each("[role=img]", (e) => !attribute(e, "aria-label"), "a picture without words");
  each("svg", (e) => !e.closest("[aria-hidden=true], [role=img]"), "a drawing that is read aloud");
  each("[tabindex]", (e) => e.tabIndex > 0, "an order of its own");
  each("p a", (e) => shown(e) && !getComputedStyle(e).textDecorationLine.includes("underline"), "told by colour alone");

  const regions = all("nav, [role=region], section[aria-label], section[aria-labelledby]").filter(shown);
  const called = regions.map((e) => attribute(e, "aria-label") || byId(e));
  for (const name of twice(called)) flaws.push(`two are called ${name}`);
  return flaws;
}
"""

_FOCUSED = r"""
() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const style = getComputedStyle(e.closest(".field") || e), own = getComputedStyle(e);
  const rings = [style, own].some((each) => each.outlineStyle !== "none" && parseFloat(each.outlineWidth) >= 1);
  return {what: e.outerHTML.slice(0, 120), seen: rings && e.getClientRects().length > 0};
}
"""


def flaws_of(window: Any) -> list[str]:
    """Return what is wrong with a document, each flaw with the element that has it."""
    found: list[str] = window.evaluate(_LOOK)
    return found


def unseen_focus(window: Any, steps: int) -> list[str]:
    """Press Tab; return the elements that have the focus without showing it, or ``nothing`` if nothing can have it."""
    unseen, reached = [], 0
    for _ in range(steps):
        window.keyboard.press("Tab")
        focused = window.evaluate(_FOCUSED)
        if focused is None:
            break
        reached += 1
        if not focused["seen"]:
            unseen.append(str(focused["what"]))
    return unseen if reached else ["nothing"]


class Tree:
    """
    What the browser tells a screen reader of a document: Chromium's own accessibility tree.

    :param window: A page of Playwright's.
    """

    def __init__(self, window: Any) -> None:
        session = window.context.new_cdp_session(window)
        told = session.send("Accessibility.getFullAXTree")["nodes"]
        session.detach()
        self._by_id = {node["nodeId"]: node for node in told}
        self.nodes = [node for node in told if not node.get("ignored")]

    def named(self, *roles: str) -> list[str]:
        """Return the names of all things of some roles, in order; empty for one that has none."""
        return [_value(node, "name") for node in self.nodes if _value(node, "role") in roles]

    def headings(self) -> list[tuple[int, str]]:
        """Return level and name of each heading."""
        found = [node for node in self.nodes if _value(node, "role") == "heading"]
        return [(int(_property(node, "level")), _value(node, "name")) for node in found]

    def tables(self) -> list[tuple[list[str], list[int]]]:
        """Return the column headers of each table, and how many cells each of its rows has."""
        found = []
        for table in (node for node in self.nodes if _value(node, "role") == "table"):
            inside = list(self._below(table))
            headers = [_value(node, "name") for node in inside if _value(node, "role") == "columnheader"]
            rows = [node for node in inside if _value(node, "role") == "row"]
            cells = [sum(_value(each, "role") in ("cell", "gridcell") for each in self._below(row)) for row in rows]
            found.append((headers, [count for count in cells if count]))
        return found

    def live(self) -> list[str]:
        """Return what is read aloud by itself when it changes: how, and its words."""
        found = [node for node in self.nodes if _property(node, "live") in ("polite", "assertive")]
        roots = [node for node in found if _value(node, "role") in ("status", "alert", "log")]
        return [f"{_value(node, 'role')}: {self._words(node)}" for node in roots]

    def _below(self, node: Any) -> Any:
        for child in node.get("childIds", []):
            if (found := self._by_id.get(child)) is not None:
                yield found
                yield from self._below(found)

    def _words(self, node: Any) -> str:
        texts = [_value(each, "name") for each in self._below(node) if _value(each, "role") == "StaticText"]
        return " ".join(" ".join(texts).split())


def _value(node: Any, member: str) -> str:
    return str(node.get(member, {}).get("value") or "").strip()


def _property(node: Any, name: str) -> Any:
    found = [each["value"].get("value") for each in node.get("properties", []) if each["name"] == name]
    return found[0] if found else None
