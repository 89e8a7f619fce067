// Replaces the regions of this page by their current state, without a reload: input, focus and opened details are kept.

import { end } from "./indicator.js";

const DEBOUNCE_MS = 200;

let timer = null;
let running = false;

/** Refresh after a short delay, once for all calls in that time. */
export function refreshSoon() {
  timer ??= setTimeout(async () => {
    timer = null;
    if (running) return refreshSoon();
    running = true;
    await refresh().finally(() => (running = false));
  }, DEBOUNCE_MS);
}

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
    if (response.redirected) end();
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

/** Return a text that identifies an element before and after the replacement. */
function identity(element) {
  return element.id || [element.localName, element.getAttribute("href") ?? element.value, element.textContent.trim()].join(" ");
}
