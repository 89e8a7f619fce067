// Counts on the page of analytics what is stored while it is open, and brings its numbers up to date from time to time.

import { socket } from "./live.js";
import { morph } from "./morph.js";
import { refresh } from "./page.js";

const EVERY_MS = 5000;

const counter = document.getElementById("stored");
const part = document.getElementById("insights");

let stored = 0;
let watched = false;
let missed = false; // what was stored without a connection has not been counted
let due = false;
let pause = null;

function watch() {
  socket.emit("watch_analytics", {}, ({ ok, error }) => {
    if (!ok) return say(error);
    missed = watched;
    watched = true;
    tell();
    if (missed) bringUpToDate();
  });
}

function tell() {
  const count = `${stored.toLocaleString("en")} ${stored === 1 ? "event" : "events"}`;
  say(`${missed ? "At least " : ""}${count} stored since you opened this page`);
}

function say(words) {
  counter.textContent = words;
  counter.hidden = false;
}

async function bringUpToDate() {
  due = document.hidden || pause !== null;
  if (due) return; // when it is looked at, or when the pause is over
  pause = setTimeout(() => {
    pause = null;
    if (due) bringUpToDate();
  }, EVERY_MS);
  await refresh();
}

socket.on("connect", watch);
if (socket.connected) watch();

socket.on("events_stored", ({ count }) => {
  stored += count;
  tell();
  bringUpToDate();
});

document.addEventListener("refreshed", ({ detail: fresh }) => morph(part, fresh.getElementById("insights")));
document.addEventListener("visibilitychange", () => due && bringUpToDate());
