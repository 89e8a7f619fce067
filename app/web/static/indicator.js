// The quiet word on whether this page is live, and the loud one when the session has ended.

const CAUGHT_UP_MS = 4000;

const place = document.getElementById("live");
let wasLive = false;

export function live() {
  show("on", wasLive ? "Caught up" : "Live");
  if (wasLive) setTimeout(() => place.dataset.state === "on" && show("on", "Live"), CAUGHT_UP_MS);
  wasLive = true;
  place.setAttribute("aria-live", "polite"); // the first word goes without saying, changes are told
}

export function connecting() {
  if (place.dataset.state !== "ended") show("waiting", wasLive ? "Reconnecting …" : "Connecting …");
}

export function end() {
  if (place.dataset.state === "ended") return;
  show("ended", "Signed out");
  const words = document.createElement("p");
  words.className = "box alert";
  words.setAttribute("role", "alert");
  const link = document.createElement("a");
  link.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in again";
  words.append("Your session has ended, so this page is no longer kept up to date. ", link);
  document.querySelector("main").prepend(words);
}

function show(state, words) {
  place.dataset.state = state;
  place.textContent = words;
}
