// Sends usage events unless the user opted out.

let events = [];
let off, shown = 0;

const isOff = () => off || navigator.globalPrivacyControl || /\banalytics=no\b/.test(document.cookie);

export function track(name, category, properties) {
  if (!name || events[99] || isOff()) return;
  events.push({ id: crypto.randomUUID?.(), name, category, properties });
  if (!events[1]) setTimeout(send, 4000);
}

function send() {
  if (events[0] && !isOff())
    navigator.sendBeacon("/api/analytics/events", new Blob([JSON.stringify({ events })], { type: "application/json" }));
  events = [];
}

document.addEventListener("analytics-off", () => (off = true));
addEventListener("click", ({ target }) => track(target.closest("[data-track]")?.dataset.track, "notifications"));
addEventListener("visibilitychange", ({ timeStamp: now }) => {
  const seconds = Math.round((now - shown) / 1000);
  if (document.hidden) track("page_left", "navigation", { path: document.body.dataset.path, seconds });
  shown = now;
  send();
});
