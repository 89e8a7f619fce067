// What this page knows of the user's notifications: the last number it has, the bell, the title, and a word on each new one.

const MAX_TOASTS = 3;
const TOAST_MS = 10_000;

const bell = document.getElementById("bell");
const toasts = document.getElementById("toasts");
const title = document.title;

let last = Number(bell.dataset.head);
let readUpTo = Number(bell.dataset.readUpTo);

/** The number of the last notification that this page has. */
export const head = () => last;

/** False for one that it has already. */
export function take(notification) {
  if (notification.seq <= last) return false;
  last = notification.seq;
  ring();
  toast(notification);
  return true;
}

/** What is between is not kept any more, or is on the page already. */
export function skipTo(seq) {
  last = Math.max(last, seq);
  ring();
}

function ring() {
  const unread = Math.max(last - readUpTo, 0);
  const count = bell.querySelector(".count");
  count.hidden = unread === 0;
  count.firstElementChild.textContent = unread.toLocaleString("en");
  document.title = unread ? `(${unread.toLocaleString("en")}) ${title}` : title;
}

/** The address of what a notification tells of. */
function about({ repository_id, export_id }) {
  if (repository_id) return `/repositories/${repository_id}`;
  return export_id && `/api/analytics/exports/${export_id}`;
}

function toast({ title: words, data }) {
  const box = document.createElement("div");
  box.className = "toast";
  const target = about(data);
  const text = document.createElement(target ? "a" : "span");
  if (target) {
    text.href = target;
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
  leaveLater(box);
}

/** Not while somebody reads or uses it. It stays in the list of notifications. */
function leaveLater(box) {
  setTimeout(() => (box.matches(":hover, :focus-within") ? leaveLater(box) : box.remove()), TOAST_MS);
}

// Another page of this browser may have marked some as read.
document.addEventListener("refreshed", ({ detail: page }) => {
  readUpTo = Math.max(readUpTo, Number(page.getElementById("bell").dataset.readUpTo));
  ring();
});

ring();
