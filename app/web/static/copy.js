// Buttons that copy the text of a field.

const SHOWN_MS = 3000;

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-copy]");
  if (!button) return;
  const field = document.getElementById(button.dataset.copy);
  field.select();
  // Only pages over https have a clipboard, and the browser may refuse it.
  const written = navigator.clipboard?.writeText(field.value).then(() => true, () => false);
  const isCopied = (await written) || document.execCommand("copy");
  if (isCopied) showCopied(button);
});

function showCopied(button) {
  button.querySelector("[role=status]")?.remove();
  const done = document.createElement("span");
  done.setAttribute("role", "status");
  done.textContent = " ✓";
  button.append(done);
  setTimeout(() => done.remove(), SHOWN_MS);
}
