// Makes one element like another and keeps its parts: with them stay focus, selection, scrolling, and what is open or being pressed.

/** Children are the same ones if they have the same id; without an id, if they are of a kind. */
export function morph(old, newest) {
  const focused = document.activeElement;
  become(old, newest);
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true }); // it was moved
  if (document.activeElement === document.body && !focused.isConnected) document.querySelector("main").focus({ preventScroll: true });
}

function become(old, newest) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== newest.data) old.data = newest.data;
    return;
  }
  takeAttributes(old, newest);
  const partners = pair([...old.childNodes], [...newest.childNodes]);
  const kept = new Set(partners.values());
  for (const child of [...old.childNodes]) if (!kept.has(child)) child.remove();
  let next = old.firstChild;
  for (const child of [...newest.childNodes]) {
    const partner = partners.get(child);
    if (!partner) old.insertBefore(child, next);
    else if (partner === next) next = next.nextSibling;
    else old.insertBefore(partner, next);
    if (partner) become(partner, child);
  }
}

function takeAttributes(old, newest) {
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name, value } of newest.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const name of old.getAttributeNames()) if (!newest.hasAttribute(name) && name !== "open") old.removeAttribute(name);
}

/** To each new child the old one that it continues, if there is one. */
function pair(olds, newests) {
  const partners = new Map();
  for (const newest of newests) {
    const at = olds.findIndex((old) => kind(old) === kind(newest));
    if (at >= 0) partners.set(newest, ...olds.splice(at, 1));
  }
  return partners;
}

function kind(node) {
  return `${node.nodeName} ${node.id ?? ""}`;
}
