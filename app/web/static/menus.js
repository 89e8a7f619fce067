// Closes panels, which are `details`, with Escape. Menus also close when the reader goes on elsewhere.

document.addEventListener("keydown", ({ key }) => {
  if (key !== "Escape") return;
  const panel = document.activeElement.closest("details[open]") ?? [...document.querySelectorAll(".menu[open]")].at(-1);
  if (!panel) return;
  panel.open = false;
  panel.querySelector("summary").focus();
});

for (const kind of ["pointerdown", "focusin"]) {
  document.addEventListener(kind, ({ target }) => {
    for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(target)) menu.open = false;
  });
}
