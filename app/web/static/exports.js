// Exports on this page: shows their progress, and refreshes the page when one ends.

import { refreshSoon } from "./page.js";

/** Shows the state of an export, which came from the socket. */
export function show({ id, status, progress, rows }) {
  const bar = document.querySelector(`[data-export="${id}"]`);
  if (bar && status === "running") update(bar, progress, rows);
  else if (document.querySelector("[data-region=exports]")) refreshSoon();
}

/** Refreshes the page if it shows an unfinished export, because the event that reported its end may have been lost. */
export function refreshUnfinished() {
  if (document.querySelector("[data-export]")) refreshSoon();
}

function update(bar, progress, rows) {
  bar.querySelector("progress").value = progress;
  bar.querySelector("[data-percent]").textContent = progress;
  bar.querySelector("[data-state]").textContent = `${rows.toLocaleString("en")} events written`;
}
