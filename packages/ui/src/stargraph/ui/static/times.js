// Times in the reader's zone; the exact one stands in the title.
const exact = new Intl.DateTimeFormat(undefined, {
  dateStyle: "medium", timeStyle: "long",
});
const full = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

function age(moment) {
  const seconds = (Date.now() - moment) / 1000;
  const size = Math.abs(seconds);
  if (size < 1) return "now";
  const [unit, name] = size >= 86400 ? [86400, "d"] : size >= 3600 ? [3600, "h"] : size >= 60 ? [60, "min"] : [1, "s"];
  const number = Math.floor(size / unit);
  return seconds > 0 ? `${number} ${name} ago` : `in ${number} ${name}`;
}

function exactOf(text) {
  return `${exact.format(new Date(text))}\n${text}`;
}

function show(element) {
  const moment = new Date(element.dateTime);
  const form = element.dataset.form;
  const text = form === "age" ? age(moment) : form === "clock" ? clock.format(moment) : full.format(moment);
  if (element.textContent !== text) element.textContent = text;
}

export function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    element.title = exactOf(element.dateTime);
    show(element);
  }
}

export function startTimes(root) {
  localise(root);
  setInterval(() => {
    for (const element of document.querySelectorAll('time[data-form="age"]')) show(element);
  }, 5000);
}
