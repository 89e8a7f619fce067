// The state of this page: refreshes its regions without a reload, and shows whether it is live.

const DEBOUNCE_MS = 200;
const CAUGHT_UP_MS = 4000;

const indicator = document.getElementById("live");

let timer = null;
let running = false;
let wasLive = false;

/** Replaces the regions by their current state after a short delay, once for all calls in that time. */
export function refreshSoon() {
  timer ??= setTimeout(async () => {
    timer = null;
    if (running) return refreshSoon();
    running = true;
    await refresh().finally(() => (running = false));
  }, DEBOUNCE_MS);
}

/** Keeps input, focus and opened details. */
export async function refresh() {
  const fresh = await load();
  if (!fresh) return;
  for (const region of document.querySelectorAll("[data-region]")) {
    const newest = fresh.querySelector(`[data-region="${region.dataset.region}"]`);
    if (newest && newest.innerHTML !== region.innerHTML) replace(region, newest);
  }
  document.dispatchEvent(new CustomEvent("refreshed", { detail: fresh }));
}

async function load() {
  try {
    // Counts the first report as viewed, although the page is not opened again.
    const headers = document.querySelector("[data-awaited]") ? { "X-Awaited": "report" } : {};
    const response = await fetch(location.href, { headers });
    if (response.redirected) showEnded();
    else if (response.ok) return new DOMParser().parseFromString(await response.text(), "text/html");
  } catch {
    // No connection; the next message or connection triggers another refresh.
  }
  return null;
}

function replace(region, newest) {
  const focused = region.contains(document.activeElement) ? identity(document.activeElement) : null;
  const checked = [...region.querySelectorAll("input:checked")].map(identity);
  const opened = [...region.querySelectorAll("details[open] > summary")].map(identity);
  region.replaceWith(newest);
  for (const element of newest.querySelectorAll("a, button, summary, input")) {
    const id = identity(element);
    if (checked.includes(id)) element.checked = true;
    if (opened.includes(id)) element.parentElement.open = true;
    if (focused === id) element.focus({ preventScroll: true });
  }
  if (focused && !newest.contains(document.activeElement)) document.querySelector("main").focus({ preventScroll: true });
}

/** Returns a text that identifies an element before and after the replacement. */
function identity(element) {
  return element.id || [element.localName, element.getAttribute("href") ?? element.value, element.textContent.trim()].join(" ");
}

export function showLive() {
  show("on", wasLive ? "Caught up" : "Live");
  if (wasLive) setTimeout(() => indicator.dataset.state === "on" && show("on", "Live"), CAUGHT_UP_MS);
  wasLive = true;
  indicator.setAttribute("aria-live", "polite"); // screen readers announce changes, but not the first state
}

export function showConnecting() {
  if (indicator.dataset.state !== "ended") show("waiting", wasLive ? "Reconnecting …" : "Connecting …");
}

/** The session has ended: says so, once. */
export function showEnded() {
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
