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
