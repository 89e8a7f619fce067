// Shows one week of the chart of commits at a time, by keyboard, mouse or finger. Without scripts, the table has all weeks.

/** Show the week that the slider points to: its row of the table as text, and a cursor in the chart. */
function show(slider, visibility = "visible") {
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

function point({ target, clientX }) {
  const chart = target.closest?.(".weekly .columns");
  if (!chart) return;
  const { left, width } = chart.getBoundingClientRect();
  const slider = sliderAt(chart);
  slider.value = Math.floor(((clientX - left) / width) * (Number(slider.max) + 1));
  show(slider);
}

function start() {
  for (const reader of document.querySelectorAll(".weekly .reader[hidden]")) {
    reader.hidden = false;
    document.getElementById("week-help").hidden = false;
    show(reader.querySelector("input"), "hidden");
  }
}

document.addEventListener("input", ({ target }) => sliderAt(target) && show(target));
document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);
document.addEventListener("refreshed", start);
start();
