// Writes moments in the reader's zone: of `<time datetime="…" data-form="clock|age">`, also of parts that htmx loads.

const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "long" });
const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function showAge(moment) {
  const seconds = (moment.getTime() - Date.now()) / 1000;
  for (const [unit, size] of units) {
    if (Math.abs(seconds) >= size || unit === "second") return relative.format(Math.trunc(seconds / size), unit);
  }
  return "";
}

function showClock(moment) {
  const today = day.format(moment) === day.format(new Date());
  return today ? clock.format(moment) : `${day.format(moment)}, ${clock.format(moment)}`;
}

function write(element) {
  const moment = new Date(element.dateTime);
  if (Number.isNaN(moment.getTime())) return;
  const isAge = element.dataset.form === "age";
  element.textContent = isAge ? showAge(moment) : showClock(moment);
  element.title = isAge ? full.format(moment) : `${full.format(moment)} (${showAge(moment)})`;
}

function writeAll(root) {
  if (root.matches?.("time[datetime]")) write(root);
  root.querySelectorAll?.("time[datetime]").forEach(write);
}

writeAll(document);
document.body.addEventListener("htmx:load", (event) => writeAll(event.detail.elt));
setInterval(() => document.querySelectorAll('time[data-form="age"]').forEach(write), 10000);

const zone = document.getElementById("zone");
if (zone) zone.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
