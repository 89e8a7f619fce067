// Changes an element into another one and keeps its child nodes, so that focus, selection, scroll position and opened details stay.

/** Children match if they have the same node name and the same id, if any. */
export function morph(old, newest) {
  const focused = document.activeElement;
  transform(old, newest);
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true }); // moving a node removes its focus
  if (document.activeElement === document.body && !focused.isConnected) document.querySelector("main").focus({ preventScroll: true });
}

function transform(old, newest) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== newest.data) old.data = newest.data;
    return;
  }
  copyAttributes(old, newest);
  const matches = match([...old.childNodes], [...newest.childNodes]);
  const kept = new Set(matches.values());
  for (const child of [...old.childNodes]) if (!kept.has(child)) child.remove();
  let next = old.firstChild;
  for (const child of [...newest.childNodes]) {
    const partner = matches.get(child);
    if (!partner) old.insertBefore(child, next);
    else if (partner === next) next = next.nextSibling;
    else old.insertBefore(partner, next);
    if (partner) transform(partner, child);
  }
}

function copyAttributes(old, newest) {
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name, value } of newest.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const name of old.getAttributeNames()) if (!newest.hasAttribute(name) && name !== "open") old.removeAttribute(name);
}

/** Map each new child to the old child that it continues, if there is one. */
function match(olds, newests) {
  const matches = new Map();
  for (const newest of newests) {
    const at = olds.findIndex((old) => key(old) === key(newest));
    if (at >= 0) matches.set(newest, ...olds.splice(at, 1));
  }
  return matches;
}

function key(node) {
  return `${node.nodeName} ${node.id ?? ""}`;
}
