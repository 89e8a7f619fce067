// Keeps a page up to date over one socket: notifications, analyses and exports. Without a socket, every page works as it was loaded.

import { io } from "./vendor/socket.io.esm.min.js";
import { LiveSocket } from "./live-socket.js";
import { refresh, refreshSoon, showConnecting, showEnded, showLive } from "./page.js";

const MAX_TOASTS = 3;
const TOAST_MS = 10_000;
const POLL_MS = 3000;
const STALE_MS = 15_000; // without any event for this time, poll the API even while the socket is connected
const MAX_POLLED = 10;
const UNFINISHED = ["queued", "running"];

const bell = document.getElementById("bell");
const toasts = document.getElementById("toasts");
const title = document.title;
const unlisted = new Set(); // IDs of repositories for which the list was refreshed: a filter may leave them out

let last = Number(bell.dataset.head); // the number of the last notification that this page has
let readUpTo = 0;
let alsoRead = []; // the numbers after `readUpTo` that were read
let wasLive = false;
let updatedAt = Date.now(); // of the last event of an analysis

setRead(stateOf(bell));

export const live = new LiveSocket(io, {
  transports: document.getElementById("live").dataset.transports.split(" "),
  after: last,
});
showConnecting();

live.on("live", ({ handedOver, read_up_to, also_read }) => {
  if (!handedOver) showLive();
  onRead({ up_to: read_up_to, also_read });
  pollAnalyses();
  refreshUnfinishedExports();
  if (wasLive) checkOptOut();
  wasLive = true;
});
live.on("missed", reload);
live.on("notification", onNotification);
live.on("read", onRead);
live.on("analysis", showAnalysis);
live.on("export", showExport);
live.on("analytics_off", stopAnalytics);
live.on("waiting", showConnecting);
live.on("ended", showEnded);

setInterval(() => {
  const isConnected = live.isLive || live.hasEnded;
  if (!document.hidden && (!isConnected || Date.now() - updatedAt > STALE_MS)) pollAnalyses();
}, POLL_MS);

// Another page of this browser may have marked notifications as read.
document.addEventListener("refreshed", ({ detail: page }) => setRead(stateOf(page.getElementById("bell"))));
document.addEventListener("click", ({ target }) => target.closest("[data-print]") && window.print());

/** The account has opted out, so this page sends no more events. */
function stopAnalytics() {
  document.dispatchEvent(new Event("analytics-off"));
}

/** The account may have opted out while this page was disconnected. */
async function checkOptOut() {
  const response = await fetch("/api/analytics/opt-out").catch(() => null);
  if (!response?.ok || (await response.json()).opted_out) stopAnalytics();
}

function onNotification(notification) {
  if (!addNotification(notification)) return;
  const repositoryId = notification.data.repository_id;
  if (repositoryId) onNewReport(repositoryId);
  refreshUnfinishedExports();
  if (document.querySelector("[data-region=news]")) refreshSoon();
}

/** Another tab or device has read notifications. */
function onRead(state) {
  if (setRead(state) && document.querySelector("[data-region=news]")) refreshSoon();
}

/** Refreshes the page, because some of the missing notifications have been purged. */
async function reload({ head }) {
  await refresh();
  last = Math.max(last, head);
  showUnread();
}

/** Shows a notification and returns true, or returns false if this page has it already. */
function addNotification(notification) {
  if (notification.seq <= last) return false;
  last = notification.seq;
  showUnread();
  toast(notification);
  return true;
}

/** Shows which notifications were read, here or elsewhere. Returns false if this page knows it. What was read stays read. */
function setRead({ up_to = 0, also_read = [] }) {
  const before = [readUpTo, ...alsoRead].join();
  readUpTo = Math.max(readUpTo, up_to);
  alsoRead = [...new Set([...alsoRead, ...also_read])].filter((seq) => seq > readUpTo).sort((a, b) => a - b);
  showUnread();
  return before !== [readUpTo, ...alsoRead].join();
}

/** What was read when the page of this bell was rendered. */
function stateOf({ dataset }) {
  return { up_to: Number(dataset.readUpTo), also_read: (dataset.alsoRead ?? "").split(" ").filter(Boolean).map(Number) };
}

function showUnread() {
  const unread = Math.max(last - readUpTo - alsoRead.filter((seq) => seq <= last).length, 0);
  const count = bell.querySelector(".count");
  count.hidden = unread === 0;
  count.firstElementChild.textContent = unread.toLocaleString("en");
  document.title = unread ? `(${unread.toLocaleString("en")}) ${title}` : title;
}

/** The address of the page or file that a notification is about. */
function target({ repository_id, export_id, channel_id }) {
  if (channel_id) return "/settings#channels";
  if (repository_id) return `/repositories/${repository_id}`;
  return export_id && `/api/analytics/exports/${export_id}`;
}

function toast({ title: words, data }) {
  const box = document.createElement("div");
  box.className = "toast";
  const address = target(data);
  const text = document.createElement(address ? "a" : "span");
  if (address) {
    text.href = address;
    text.dataset.track = "notification_followed";
  }
  text.textContent = words;
  const close = document.createElement("button");
  close.type = "button";
  close.setAttribute("aria-label", "Close");
  close.textContent = "×";
  close.addEventListener("click", () => box.remove());
  box.append(text, close);
  toasts.append(box);
  while (toasts.children.length > MAX_TOASTS) toasts.firstElementChild.remove();
  removeLater(box);
}

/** Waits while the user points at the toast or has focused it. */
function removeLater(box) {
  setTimeout(() => (box.matches(":hover, :focus-within") ? removeLater(box) : box.remove()), TOAST_MS);
}

/** Shows the state of an analysis, which came from the socket or from the API. */
function showAnalysis({ id, repository_id, status, progress, step }) {
  updatedAt = Date.now();
  const bar = document.querySelector(`[data-analysis="${id}"]`);
  const repository = document.querySelector(`[data-repository="${repository_id}"]`);
  if (UNFINISHED.includes(status)) {
    if (bar) updateAnalysis(bar, status, progress, step);
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

function onNewReport(repositoryId) {
  if (document.querySelector(`[data-repository="${repositoryId}"], [data-report-of="${repositoryId}"]`)) refreshSoon();
}

/** Gets the state of each unfinished analysis on this page from the API. */
async function pollAnalyses() {
  updatedAt = Date.now();
  const bars = [...document.querySelectorAll("[data-analysis]")].slice(0, MAX_POLLED);
  await Promise.all(bars.map((bar) => pollAnalysis(bar.dataset.analysis)));
}

async function pollAnalysis(id) {
  try {
    const response = await fetch(`/api/analyses/${id}`);
    if (response.ok) showAnalysis(await response.json());
    else if (response.status === 401) showEnded();
  } catch {
    // No connection: the next poll tries again.
  }
}

function updateAnalysis(bar, status, progress, step) {
  bar.querySelector("progress").value = progress;
  bar.querySelector("[data-percent]").textContent = progress;
  bar.querySelector("[data-step]").textContent = status === "queued" ? "Queued" : step || "Starting";
}

/** Shows the state of an export, which came from the socket. */
export function showExport({ id, status, progress, rows }) {
  const bar = document.querySelector(`[data-export="${id}"]`);
  if (bar && status === "running") updateExport(bar, progress, rows);
  else if (document.querySelector("[data-region=exports]")) refreshSoon();
}

/** Refreshes the page if it shows an unfinished export, because the event that reported its end may have been lost. */
function refreshUnfinishedExports() {
  if (document.querySelector("[data-export]")) refreshSoon();
}

function updateExport(bar, progress, rows) {
  bar.querySelector("progress").value = progress;
  bar.querySelector("[data-percent]").textContent = progress;
  bar.querySelector("[data-state]").textContent = `${rows.toLocaleString("en")} events written`;
}
