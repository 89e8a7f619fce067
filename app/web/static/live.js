// Keeps a page up to date over one socket. Without a socket, every page works as it was loaded.

import { io } from "./vendor/socket.io.esm.min.js";
import * as analyses from "./analyses.js";
import * as exports from "./exports.js";
import * as inbox from "./inbox.js";
import * as indicator from "./indicator.js";
import { LiveSocket } from "./live-socket.js";
import { refresh, refreshSoon } from "./page.js";

export const live = new LiveSocket(io, {
  transports: document.getElementById("live").dataset.transports.split(" "),
  after: inbox.head(),
});
indicator.connecting();
let wasLive = false;

live.on("live", ({ handedOver, read_up_to, also_read }) => {
  if (!handedOver) indicator.live();
  onRead({ up_to: read_up_to, also_read });
  analyses.poll();
  exports.refreshUnfinished();
  if (wasLive) checkOptOut();
  wasLive = true;
});
live.on("missed", reload);
live.on("notification", onNotification);
live.on("read", onRead);
live.on("analysis", analyses.show);
live.on("export", exports.show);
live.on("analytics_off", stopAnalytics);
live.on("waiting", indicator.connecting);
live.on("ended", indicator.end);

analyses.pollRegularly(() => live.isLive || live.hasEnded);

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

/** Refreshes the page, because some of the missing notifications have been purged. */
async function reload({ head }) {
  await refresh();
  inbox.skipTo(head);
}
