// Brings the newest state of this page's regions in, without a reload: what somebody types or has opened stays.

import { end } from "./indicator.js";

const PATIENCE_MS = 200;

let planned = null;
let running = false;

/** Soon, and once for all who ask in the meantime. */
export function refreshSoon() {
  planned ??= setTimeout(async () => {
    if (running) {
      planned = null;
      return refreshSoon();
    }
    planned = null;
    running = true;
    await refresh().finally(() => (running = false));
  }, PATIENCE_MS);
}

export async function refresh() {
  const fresh = await load();
  if (!fresh) return;
  for (const region of document.querySelectorAll("[data-region]")) {
    const newest = fresh.querySelector(`[data-region="${region.dataset.region}"]`);
    if (newest) exchange(region, newest);
  }
  document.dispatchEvent(new CustomEvent("refreshed", { detail: fresh }));
}

async function load() {
  try {
    // The first report is looked at without the page being opened anew.
    const headers = document.querySelector("[data-awaited]") ? { "X-Awaited": "report" } : {};
    const answer = await fetch(location.href, { headers });
    if (answer.redirected) end();
    else if (answer.ok) return new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    // No connection: the next event or connection asks again.
  }
  return null;
}

function exchange(region, newest) {
  const focused = region.contains(document.activeElement) ? described(document.activeElement) : null;
  const ticked = [...region.querySelectorAll("input:checked")].map(described);
  const opened = [...region.querySelectorAll("details[open] > summary")].map(described);
  region.replaceChildren(...newest.childNodes);
  for (const element of region.querySelectorAll("a, button, summary, input")) {
    const description = described(element);
    if (ticked.includes(description)) element.checked = true;
    if (opened.includes(description)) element.parentElement.open = true;
    if (focused === description) element.focus({ preventScroll: true });
  }
  if (focused && !region.contains(document.activeElement)) document.querySelector("main").focus({ preventScroll: true });
}

/** What makes an element the same one in a newer state of the page. */
function described(element) {
  return [element.localName, element.getAttribute("href") ?? element.value, element.textContent.trim()].join(" ");
}
