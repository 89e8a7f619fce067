// Keeps the page of the fleet up to date by asking for it again and again: it has to work just when sockets do not.

import { end } from "./indicator.js";
import { morph } from "./morph.js";

const EVERY_MS = 2000;
const PATIENCE_MS = 5000;
const STEADY_MS = 600; // so long after a button has moved, a click may be meant for what was there before

const part = document.getElementById("fleet");
const freshness = document.getElementById("freshness");

let last = freshness.dataset; // what the newest answer says of itself: `at`, and the `instance` that gave it
let timer = null;
let held = false;
let movedAt = -Infinity;

async function ask() {
  timer = null;
  if (document.hidden) return; // going on when it is looked at
  if (await isOver()) return;
  timer = setTimeout(ask, EVERY_MS);
}

/** True when there is nothing to ask for any more. */
async function isOver() {
  try {
    const answer = await fetch(location.pathname, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
    if (answer.redirected || answer.status === 403) return over(answer);
    if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    else notLive(`${answer.headers.get("X-Instance-Id") ?? "The balancer"} answers ${answer.status}.`);
  } catch {
    notLive("Nobody answers.");
  }
  return false;
}

function over(answer) {
  if (answer.redirected) end();
  word("ended", "Not live: this is for administrators who are signed in.");
  return true;
}

function show(fresh) {
  if (held) return; // a button is being pressed: the next answer is soon enough
  const before = places();
  morph(part, fresh.getElementById("fleet"));
  if (places() !== before) movedAt = performance.now();
  morph(document.getElementById("served-by"), fresh.getElementById("served-by"));
  last = fresh.getElementById("freshness").dataset;
  word("on", `Live: ${last.instance} at ${last.at}`);
}

function notLive(why) {
  word("waiting", `Not live. ${why} Last seen: ${last.at}, told by ${last.instance}. Trying again …`);
}

function word(state, words) {
  freshness.dataset.state = state;
  if (freshness.textContent !== words) freshness.textContent = words;
}

/** Of all buttons, with what they do. */
function places() {
  return [...part.querySelectorAll("button")]
    .map((button) => `${button.form.getAttribute("action")} ${Math.round(button.getBoundingClientRect().top)}`)
    .join();
}

part.addEventListener("pointerdown", ({ button }) => (held = held || button === 0));
for (const kind of ["pointerup", "pointercancel"]) {
  addEventListener(kind, () => setTimeout(() => (held = false))); // after the click that it makes
}

// The worst comes first, so rows may change places under somebody's hand. By keyboard there is no such doubt.
part.addEventListener(
  "click",
  (event) => {
    const byPointer = event.detail > 0;
    if (byPointer && event.target.closest("button") && performance.now() - movedAt < STEADY_MS) event.preventDefault();
  },
  true,
);

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && freshness.dataset.state !== "ended") {
    clearTimeout(timer);
    ask();
  }
});

ask();
