// Refreshes the fleet page by polling, because it must work even if sockets do not.

import { morph } from "./morph.js";
import { showEnded } from "./page.js";

const POLL_MS = 2000;
const TIMEOUT_MS = 5000;
const STEADY_MS = 600; // a click this soon after a button has moved may be meant for another row

const part = document.getElementById("fleet");
const freshness = document.getElementById("freshness");

let last = freshness.dataset; // of the newest response: its time `at` and its `instance`
let timer = null;
let pressed = false;
let movedAt = -Infinity;

async function poll() {
  timer = null;
  if (document.hidden) return; // continues when the page becomes visible
  if (await refresh()) timer = setTimeout(poll, POLL_MS);
}

/** Returns whether to poll again. */
async function refresh() {
  try {
    const response = await fetch(location.pathname, { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" });
    if (response.redirected || response.status === 403) {
      if (response.redirected) showEnded();
      setFreshness("ended", "Not live: sign in as an administrator to see this page.");
      return false;
    }
    if (response.ok) show(new DOMParser().parseFromString(await response.text(), "text/html"));
    else notLive(`${response.headers.get("X-Instance-Id") ?? "The balancer"} answers with ${response.status}.`);
  } catch {
    notLive("No response.");
  }
  return true;
}

function show(fresh) {
  if (pressed) return; // do not move a button while it is pressed
  const before = buttonPositions();
  morph(part, fresh.getElementById("fleet"));
  if (buttonPositions() !== before) movedAt = performance.now();
  morph(document.getElementById("served-by"), fresh.getElementById("served-by"));
  last = fresh.getElementById("freshness").dataset;
  setFreshness("on", `Live: ${last.instance} at ${last.at}`);
}

function notLive(reason) {
  setFreshness("waiting", `Not live. ${reason} Last update: ${last.at}, from ${last.instance}. Retrying …`);
}

function setFreshness(state, text) {
  freshness.dataset.state = state;
  if (freshness.textContent !== text) freshness.textContent = text;
}

function buttonPositions() {
  return [...part.querySelectorAll("button")]
    .map((button) => `${button.form.getAttribute("action")} ${Math.round(button.getBoundingClientRect().top)}`)
    .join();
}

part.addEventListener("pointerdown", ({ button }) => (pressed = pressed || button === 0));
for (const kind of ["pointerup", "pointercancel"]) {
  addEventListener(kind, () => setTimeout(() => (pressed = false))); // after the click event
}

// Rows are sorted by state, so a button may move just before a click. The keyboard does not have this problem.
part.addEventListener(
  "click",
  (event) => {
    const isPointer = event.detail > 0;
    if (isPointer && event.target.closest("button") && performance.now() - movedAt < STEADY_MS) event.preventDefault();
  },
  true,
);

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && freshness.dataset.state !== "ended") {
    clearTimeout(timer);
    poll();
  }
});

poll();
