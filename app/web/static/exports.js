// Exports on this page: their progress moves, and what they end with is brought in.

import { refreshSoon } from "./page.js";

/** The state of an export, from the socket. */
export function show({ id, status, progress, rows }) {
  const bar = document.querySelector(`[data-export="${id}"]`);
  if (bar && status === "running") move(bar, progress, rows);
  else if (document.querySelector("[data-region=exports]")) refreshSoon();
}

/** The page, if it shows one as under way: its end may have been missed. */
export function ask() {
  if (document.querySelector("[data-export]")) refreshSoon();
}

function move(bar, progress, rows) {
  bar.querySelector("progress").value = progress;
  bar.querySelector("[data-percent]").textContent = progress;
  bar.querySelector("[data-state]").textContent = `${rows.toLocaleString("en")} events written`;
}
