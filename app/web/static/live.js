// Keeps a page up to date: one socket, and what its events mean for the page. Without a socket every page works as it was loaded.

import { io } from "./vendor/socket.io.esm.min.js";
import * as analyses from "./analyses.js";
import * as exports from "./exports.js";
import * as inbox from "./inbox.js";
import * as indicator from "./indicator.js";
import { refresh, refreshSoon } from "./page.js";

const RECONNECT_MS = 1000;

// `auth` is asked anew at each connection: the server then sends what came since the last one, or since the page was made.
export const socket = io({
  transports: document.getElementById("live").dataset.transports.split(" "),
  auth: (answer) => answer({ after: inbox.head() }),
});
let over = false;
let wasLive = false;

socket.on("ready", async ({ head, recovered }) => {
  indicator.live();
  if (!recovered) await startAnew(head);
  analyses.ask();
  exports.ask();
  if (wasLive) hushIfRefused();
  wasLive = true;
});
socket.on("notification", receive);
socket.on("analysis", analyses.show);
socket.on("export", exports.show);
socket.on("head", ({ head }) => {
  if (head > inbox.head()) sync();
});
socket.on("draining", indicator.connecting);
socket.on("session_ended", end);
socket.on("analytics_off", hush);
socket.on("disconnect", () => {
  if (over) return;
  indicator.connecting();
  // After a farewell by the server the client does not come back by itself.
  if (!socket.active) setTimeout(() => over || socket.connect(), RECONNECT_MS * (1 + Math.random()));
});
socket.on("connect_error", ({ message }) => {
  if (message === "unauthorized") end();
  else indicator.connecting();
});

analyses.askRegularly(() => socket.connected || over);

document.addEventListener("click", ({ target }) => target.closest("[data-print]") && window.print());

/** The account has said no: nothing is sent from this page any more. */
function hush() {
  document.dispatchEvent(new Event("analytics-off"));
}

/** It may have done so while this page was away. */
async function hushIfRefused() {
  const answer = await fetch("/api/analytics/opt-out").catch(() => null);
  if (!answer?.ok || (await answer.json()).opted_out) hush();
}

function receive(notification) {
  if (!inbox.take(notification)) return;
  const about = notification.data.repository_id;
  if (about) analyses.hasNewReport(about);
  exports.ask();
  if (document.querySelector("[data-region=news]")) refreshSoon();
}

/** Fetches what this page has not got, in parts. */
function sync() {
  socket.emit("sync", { after: inbox.head() }, async ({ items, head, recovered }) => {
    items?.forEach(receive);
    if (recovered === false) await startAnew(head);
    else if (items?.length && inbox.head() < head) sync();
  });
}

/** Too much is missing to be sent one by one. */
async function startAnew(head) {
  await refresh();
  inbox.skipTo(head);
}

function end() {
  over = true;
  socket.disconnect();
  indicator.end();
}
