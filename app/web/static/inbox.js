// The user's notifications on this page: the last number received, the bell, the page title, and a toast for each new one.

const MAX_TOASTS = 3;
const TOAST_MS = 10_000;

const bell = document.getElementById("bell");
const toasts = document.getElementById("toasts");
const title = document.title;

let last = Number(bell.dataset.head);
let readUpTo = 0;
let alsoRead = []; // the numbers after `readUpTo` that were read
setRead(stateOf(bell));

/** The number of the last notification that this page has. */
export const head = () => last;

/** Shows a notification and returns true, or returns false if this page has it already. */
export function add(notification) {
  if (notification.seq <= last) return false;
  last = notification.seq;
  showUnread();
  toast(notification);
  return true;
}

/** Skips notifications that have been purged or that the page already shows. */
export function skipTo(seq) {
  last = Math.max(last, seq);
  showUnread();
}

/** Shows which notifications were read, here or elsewhere. Returns false if this page knows it. What was read stays read. */
export function setRead({ up_to = 0, also_read = [] }) {
  const before = [readUpTo, ...alsoRead].join();
  readUpTo = Math.max(readUpTo, up_to);
  alsoRead = [...new Set([...alsoRead, ...also_read])].filter((seq) => seq > readUpTo).sort((a, b) => a - b);
  showUnread();
  return before !== [readUpTo, ...alsoRead].join();
}

/** What was read when the page of this bell was rendered. */
function stateOf({ dataset }) {
  return { up_to: Number(dataset.readUpTo), also_read: (dataset.alsoRead ?? "").split(" ").filter(Boolean).map(Number) };
}

function showUnread() {
  const unread = Math.max(last - readUpTo - alsoRead.filter((seq) => seq <= last).length, 0);
  const count = bell.querySelector(".count");
  count.hidden = unread === 0;
  count.firstElementChild.textContent = unread.toLocaleString("en");
  document.title = unread ? `(${unread.toLocaleString("en")}) ${title}` : title;
}

/** The address of the page or file that a notification is about. */
function target({ repository_id, export_id, channel_id }) {
  if (channel_id) return "/settings#channels";
  if (repository_id) return `/repositories/${repository_id}`;
  return export_id && `/api/analytics/exports/${export_id}`;
}

function toast({ title: words, data }) {
  const box = document.createElement("div");
  box.className = "toast";
  const address = target(data);
  const text = document.createElement(address ? "a" : "span");
  if (address) {
    text.href = address;
    text.dataset.track = "notification_followed";
  }
  text.textContent = words;
  const close = document.createElement("button");
  close.type = "button";
  close.setAttribute("aria-label", "Close");
  close.textContent = "×";
  close.addEventListener("click", () => box.remove());
  box.append(text, close);
  toasts.append(box);
  while (toasts.children.length > MAX_TOASTS) toasts.firstElementChild.remove();
  removeLater(box);
}

/** Waits while the user points at the toast or has focused it. */
function removeLater(box) {
  setTimeout(() => (box.matches(":hover, :focus-within") ? removeLater(box) : box.remove()), TOAST_MS);
}

// Another page of this browser may have marked notifications as read.
document.addEventListener("refreshed", ({ detail: page }) => {
  setRead(stateOf(page.getElementById("bell")));
});
