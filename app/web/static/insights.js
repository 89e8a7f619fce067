// The live counter of the analytics page: counts stored events, and refreshes the numbers every few seconds while it counts.

import { live } from "./live.js";
import { morph } from "./morph.js";
import { refresh } from "./page.js";

const REFRESH_INTERVAL_MS = 5000;

const counter = document.getElementById("stored");
const region = document.getElementById("insights");

let stored = 0;
let wasWatching = false;
let hasGap = false; // events that were stored while the socket was disconnected are not counted
let isRefreshDue = false;
let interval = null;

function onWatching({ ok, error }) {
  if (!ok) return show(error);
  hasGap = wasWatching;
  wasWatching = true;
  showCount();
  if (hasGap) refreshNumbers();
}

function showCount() {
  const count = `${stored.toLocaleString("en")} ${stored === 1 ? "event" : "events"}`;
  show(`${hasGap ? "At least " : ""}${count} stored since you opened this page`);
}

function show(text) {
  counter.textContent = text;
  counter.hidden = false;
}

/** Refreshes now, or when the page becomes visible, or when the interval since the last refresh is over. */
async function refreshNumbers() {
  isRefreshDue = document.hidden || interval !== null;
  if (isRefreshDue) return;
  interval = setTimeout(() => {
    interval = null;
    if (isRefreshDue) refreshNumbers();
  }, REFRESH_INTERVAL_MS);
  await refresh();
}

live.request("analytics", "watch_analytics", {}, onWatching);
live.on("events_stored", ({ count }) => {
  stored += count;
  showCount();
  refreshNumbers();
});

document.addEventListener("refreshed", ({ detail: fresh }) => morph(region, fresh.getElementById("insights")));
document.addEventListener("visibilitychange", () => isRefreshDue && refreshNumbers());
