// Keeps a page up to date over one socket. Without a socket, every page works as it was loaded.

import { io } from "./vendor/socket.io.esm.min.js";
import * as analyses from "./analyses.js";
import * as exports from "./exports.js";
import * as inbox from "./inbox.js";
import * as indicator from "./indicator.js";
import { refresh, refreshSoon } from "./page.js";

const RECONNECT_MS = 1000;

// `auth` is called for each connection. The server then sends the notifications after that number.
export const socket = io({
  transports: document.getElementById("live").dataset.transports.split(" "),
  auth: (send) => send({ after: inbox.head() }),
});
indicator.connecting();
let hasEnded = false;
let wasReady = false;

socket.on("ready", async ({ head, recovered, read_up_to, also_read }) => {
  indicator.live();
  onRead({ up_to: read_up_to, also_read });
  if (!recovered) await reload(head);
  analyses.poll();
  exports.refreshUnfinished();
  if (wasReady) checkOptOut();
  wasReady = true;
});
socket.on("notification", onNotification);
socket.on("read", onRead);
socket.on("analysis", analyses.show);
socket.on("export", exports.show);
socket.on("head", ({ head }) => {
  if (head > inbox.head()) sync();
});
socket.on("draining", indicator.connecting);
socket.on("session_ended", end);
socket.on("analytics_off", stopAnalytics);
socket.on("disconnect", () => {
  if (hasEnded) return;
  indicator.connecting();
  // The client does not reconnect by itself after a disconnect by the server.
  if (!socket.active) setTimeout(() => hasEnded || socket.connect(), RECONNECT_MS * (1 + Math.random()));
});
socket.on("connect_error", ({ message }) => {
  if (message === "unauthorized") end();
  else indicator.connecting();
});

analyses.pollRegularly(() => socket.connected || hasEnded);

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
  if (!inbox.add(notification)) return;
  const repositoryId = notification.data.repository_id;
  if (repositoryId) analyses.onNewReport(repositoryId);
  exports.refreshUnfinished();
  if (document.querySelector("[data-region=news]")) refreshSoon();
}

/** Another tab or device has read notifications. */
function onRead(state) {
  if (inbox.setRead(state) && document.querySelector("[data-region=news]")) refreshSoon();
}

/** Gets the missing notifications, page by page. */
function sync() {
  socket.emit("sync", { after: inbox.head() }, async ({ items, head, recovered }) => {
    items?.forEach(onNotification);
    if (recovered === false) await reload(head);
    else if (items?.length && inbox.head() < head) sync();
  });
}

/** Refreshes the page, because some of the missing notifications have been purged. */
async function reload(head) {
  await refresh();
  inbox.skipTo(head);
}

function end() {
  hasEnded = true;
  socket.disconnect();
  indicator.end();
}
