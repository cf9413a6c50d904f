// SPDX-License-Identifier: Apache-2.0
// What HTML alone cannot do: follow Airflow's theme, leave its sandboxed frame, lengths that come from data.
"use strict";

(() => {
  const root = document.documentElement;
  const followTheme = () => {
    let name = null;
    try { name = localStorage.getItem("theme"); } catch { /* a private window */ }
    if (name === "light" || name === "dark") root.dataset.theme = name;
    else delete root.dataset.theme;
  };
  followTheme();
  if (parent !== window) root.dataset.framed = "yes";
  addEventListener("storage", (event) => { if (event.key === "theme" || event.key === null) followTheme(); });

  // The frame may open no window and not replace its parent, but a link in the parent's document may.
  const leave = (link) => {
    let outer = null;
    try { outer = parent !== window ? parent.document : null; } catch { /* another origin's frame */ }
    if (outer === null) return false;
    const copy = outer.createElement("a");
    copy.href = link.href;
    if (link.dataset.leave === "out") { copy.target = "_blank"; copy.rel = "noopener noreferrer"; }
    outer.body.append(copy);
    copy.click();
    copy.remove();
    return true;
  };

  const copyText = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed in this frame */ }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    let done = false;
    try { done = document.execCommand("copy"); } catch { /* neither */ }
    area.remove();
    return done;
  };

  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest(selector);
    const link = at("a[data-leave]");
    if (link && leave(link)) event.preventDefault();
    const opener = at("[data-open]");
    if (opener) { event.preventDefault(); document.getElementById(opener.dataset.open)?.showModal(); }
    if (at("[data-close]")) at("dialog")?.close();
    const copier = at("[data-copy]");
    if (copier) {
      event.preventDefault();
      copyText(copier.dataset.copy).then((done) => {
        copier.dataset.copied = done ? "yes" : "no";
        const told = document.getElementById("told");
        if (told) told.textContent = done ? "Copied." : "This could not be copied.";
      });
    }
  });

  document.addEventListener("keydown", (event) => {
    const close = document.querySelector("a[data-escape]");
    if (event.key === "Escape" && close && !document.querySelector("dialog[open]")) close.click();
  });

  document.addEventListener("change", (event) => {
    const field = event.target;
    if (field.matches("select[data-submit]")) field.form.requestSubmit();
    if (field.matches("input[data-all]")) {
      for (const box of document.querySelectorAll(`input[name="${field.dataset.all}"]:not([disabled])`)) box.checked = field.checked;
    }
    if (field.matches("input[data-unlock]")) document.getElementById(field.dataset.unlock).disabled = !field.checked;
  });

  // data-width="78" is a width in per cent, data-share="196485" a share of a flex line: the policy allows no style attribute.
  const apply = (part) => {
    for (const each of part.querySelectorAll("[data-width]")) each.style.width = `${Math.min(100, Math.max(0, Number(each.dataset.width) || 0))}%`;
    for (const each of part.querySelectorAll("[data-share]")) each.style.flexGrow = String(Number(each.dataset.share) || 0);
    for (const each of part.querySelectorAll("time[datetime]")) {
      const when = new Date(each.dateTime);
      if (!Number.isNaN(when.getTime())) each.title = when.toLocaleString();
    }
  };
  document.addEventListener("DOMContentLoaded", () => apply(document));
  globalThis.geminiBatch = { apply };
})();

// A page that waits for something looks again by itself; a person who types or chooses is not interrupted.
addEventListener("DOMContentLoaded", () => {
  const waits = document.querySelector("[data-again]");
  if (!waits) return;
  const busy = () => document.querySelector("dialog[open], input:checked") !== null || document.activeElement?.matches("input, select");
  const look = () => { if (document.hidden || busy()) setTimeout(look, 1000); else location.replace(location.href); };
  setTimeout(look, 1000 * Math.max(1, Number(waits.dataset.again) || 2));
});
