// The indicator that shows whether this page is live, and the alert that appears when the session has ended.

const CAUGHT_UP_MS = 4000;

const indicator = document.getElementById("live");
let wasLive = false;

export function live() {
  show("on", wasLive ? "Caught up" : "Live");
  if (wasLive) setTimeout(() => indicator.dataset.state === "on" && show("on", "Live"), CAUGHT_UP_MS);
  wasLive = true;
  indicator.setAttribute("aria-live", "polite"); // screen readers announce changes, but not the first state
}

export function connecting() {
  if (indicator.dataset.state !== "ended") show("waiting", wasLive ? "Reconnecting …" : "Connecting …");
}

export function end() {
  if (indicator.dataset.state === "ended") return;
  show("ended", "Signed out");
  const alert = document.createElement("p");
  alert.className = "box alert";
  alert.setAttribute("role", "alert");
  const link = document.createElement("a");
  link.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in again";
  alert.append("Your session has ended, so this page is no longer kept up to date. ", link);
  document.querySelector("main").prepend(alert);
}

function show(state, text) {
  indicator.dataset.state = state;
  indicator.textContent = text;
}
