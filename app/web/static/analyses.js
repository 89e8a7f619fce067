// Analyses on this page: shows their progress, and refreshes the page when one ends.

import { end } from "./indicator.js";
import { refreshSoon } from "./page.js";

const POLL_MS = 3000;
const STALE_MS = 15_000; // without any event for this time, poll the API even while the socket is connected
const MAX_POLLED = 10;
const UNFINISHED = ["queued", "running"];

let updatedAt = Date.now();
const unlisted = new Set(); // IDs of repositories for which the list was refreshed: a filter may leave them out

/** Shows the state of an analysis, which came from the socket or from the API. */
export function show({ id, repository_id, status, progress, step }) {
  updatedAt = Date.now();
  const bar = document.querySelector(`[data-analysis="${id}"]`);
  const repository = document.querySelector(`[data-repository="${repository_id}"]`);
  if (UNFINISHED.includes(status)) {
    if (bar) update(bar, status, progress, step);
    else if (repository || status === "queued") refreshSoon();
  } else if (bar || repository) refreshSoon();
  if (!repository) refreshList(repository_id);
}

/** Refreshes the list, once, because a repository that is not in it was added elsewhere. */
function refreshList(repositoryId) {
  if (unlisted.has(repositoryId) || !document.querySelector("[data-region=list]")) return;
  unlisted.add(repositoryId);
  refreshSoon();
}

export function onNewReport(repositoryId) {
  if (document.querySelector(`[data-repository="${repositoryId}"], [data-report-of="${repositoryId}"]`)) refreshSoon();
}

/** Gets the state of each unfinished analysis on this page from the API. */
export async function poll() {
  updatedAt = Date.now();
  const bars = [...document.querySelectorAll("[data-analysis]")].slice(0, MAX_POLLED);
  await Promise.all(bars.map((bar) => pollOne(bar.dataset.analysis)));
}

export function pollRegularly(isConnected) {
  setInterval(() => {
    if (!document.hidden && (!isConnected() || Date.now() - updatedAt > STALE_MS)) poll();
  }, POLL_MS);
}

async function pollOne(id) {
  try {
    const response = await fetch(`/api/analyses/${id}`);
    if (response.ok) show(await response.json());
    else if (response.status === 401) end();
  } catch {
    // No connection: the next poll tries again.
  }
}

function update(bar, status, progress, step) {
  bar.querySelector("progress").value = progress;
  bar.querySelector("[data-percent]").textContent = progress;
  bar.querySelector("[data-step]").textContent = status === "queued" ? "Queued" : step || "Starting";
}
