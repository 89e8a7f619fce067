// What scripts add to pages that work without them. Each part begins with a comment.

// Shows times in the time zone of the reader, and in UTC on hover. Without scripts, they stay in UTC.

const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "long", year: "numeric" });
const CLOCKS = {
  minute: new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" }),
  second: new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" }),
};

function localise() {
  for (const time of document.querySelectorAll("time[data-local]")) {
    const when = new Date(time.dateTime);
    const clock = CLOCKS[time.dataset.local];
    time.title ||= time.textContent;
    time.textContent = clock ? `${DAY.format(when)}, ${clock.format(when)}` : DAY.format(when);
    delete time.dataset.local;
  }
}

document.addEventListener("refreshed", localise);
localise();

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

// Buttons that copy the text of a field.

const COPIED_MS = 3000;

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
  setTimeout(() => done.remove(), COPIED_MS);
}

// Shows one week of the chart of commits at a time, by keyboard, mouse or finger. Without scripts, the table has all weeks.

/** Shows the week that the slider points to: its row of the table as text, and a cursor in the chart. */
function showWeek(slider, visibility = "visible") {
  const figure = slider.closest(".weekly");
  const rows = document.querySelectorAll("#weeks tbody tr"); // the latest first
  const [week, commits, releases] = [...rows[slider.max - slider.value].cells].map((cell) => cell.textContent);
  const text = `of ${week}: ${commits} ${commits === "1" ? "commit" : "commits"}${releases && `, released ${releases}`}`;
  figure.querySelector("output").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  const cursor = figure.querySelector(".cursor");
  cursor.setAttribute("x", slider.value);
  cursor.setAttribute("visibility", visibility);
}

function sliderAt(target) {
  return target.closest?.(".weekly")?.querySelector("input");
}

function pointAtWeek({ target, clientX }) {
  const chart = target.closest?.(".weekly .columns");
  if (!chart) return;
  const { left, width } = chart.getBoundingClientRect();
  const slider = sliderAt(chart);
  slider.value = Math.floor(((clientX - left) / width) * (Number(slider.max) + 1));
  showWeek(slider);
}

function showSliders() {
  for (const reader of document.querySelectorAll(".weekly .reader[hidden]")) {
    reader.hidden = false;
    document.getElementById("week-help").hidden = false;
    showWeek(reader.querySelector("input"), "hidden");
  }
}

document.addEventListener("input", ({ target }) => sliderAt(target) && showWeek(target));
document.addEventListener("pointermove", pointAtWeek);
document.addEventListener("pointerdown", pointAtWeek);
document.addEventListener("refreshed", showSliders);
showSliders();
