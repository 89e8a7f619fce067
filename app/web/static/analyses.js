// Analyses on this page: their progress moves, and what they end with is brought in.

import { end } from "./indicator.js";
import { refreshSoon } from "./page.js";

const POLL_MS = 3000;
const QUIET_MS = 15_000; // so long nothing was heard of an analysis that should be under way: better ask
const MAX_ASKED_AT_ONCE = 10;
const LIVE = ["queued", "running"];

let heardAt = Date.now();

/** The state of an analysis, from the socket or from the API. */
export function show({ id, repository_id, status, progress, step }) {
  heardAt = Date.now();
  const bar = document.querySelector(`[data-analysis="${id}"]`);
  const place = document.querySelector(`[data-repository="${repository_id}"]`);
  if (LIVE.includes(status)) {
    if (bar) move(bar, status, progress, step);
    else if (place || status === "queued") refreshSoon();
  } else if (bar || place) refreshSoon();
}

export function hasNewReport(repositoryId) {
  if (document.querySelector(`[data-repository="${repositoryId}"], [data-report-of="${repositoryId}"]`)) refreshSoon();
}

/** The API, about each that this page shows as under way. */
export async function ask() {
  heardAt = Date.now();
  const bars = [...document.querySelectorAll("[data-analysis]")].slice(0, MAX_ASKED_AT_ONCE);
  await Promise.all(bars.map((bar) => askAbout(bar.dataset.analysis)));
}

export function askRegularly(isConnected) {
  setInterval(() => {
    if (!document.hidden && (!isConnected() || Date.now() - heardAt > QUIET_MS)) ask();
  }, POLL_MS);
}

async function askAbout(id) {
  try {
    const answer = await fetch(`/api/analyses/${id}`);
    if (answer.ok) show(await answer.json());
    else if (answer.status === 401) end();
  } catch {
    // No connection: it is asked again.
  }
}

function move(bar, status, progress, step) {
  bar.querySelector("progress").value = progress;
  bar.querySelector("[data-percent]").textContent = progress;
  bar.querySelector("[data-step]").textContent = status === "queued" ? "Waiting for its turn" : step || "Starting";
}
