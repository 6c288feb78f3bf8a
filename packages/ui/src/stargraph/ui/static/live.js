// Live updates: the server says that something has changed, and the regions of this page are asked for again.
import { fetchText, parse } from "./dom.js";
import { localise } from "./times.js";

let source = null;
let isOn = true;
let isRefreshing = false;
let isStale = false;
// What the last event said. One that comes during a refresh must not be forgotten: it may be the last of all.
let news;
// Whether a region was left as it is because somebody uses it: it is asked for again once they have left it.
let isHeld = false;
const listeners = [];

export function onChange(listener) {
  listeners.push(listener);
}

function isUsed(region) {
  const focused = region.contains(document.activeElement) && document.activeElement.closest("form");
  return focused || region.querySelector('[aria-expanded="true"]');
}

// The fields of the forms that somebody fills in, by what they are for. Buttons are none: a value that is set, even "", is an
// attribute of theirs, and the part would look changed from then on.
function fieldsOf(region) {
  const found = new Map();
  for (const form of region.querySelectorAll("form")) {
    for (const field of form.elements) {
      if (!field.matches("input, textarea, select")) continue;
      const choice = field.type === "radio" ? field.value : "";
      found.set(JSON.stringify([form.action, form.elements.question?.value, field.name, choice]), field);
    }
  }
  return found;
}

function replace(old, fresh) {
  const current = old.querySelector(".is-current")?.dataset.row;
  const open = new Set([...old.querySelectorAll("details[open][id]")].map((each) => each.id));
  localise(fresh);
  if (old.innerHTML === fresh.innerHTML) return;
  const height = old.offsetHeight;
  const typed = fieldsOf(old);
  old.replaceChildren(...fresh.childNodes);
  for (const [name, field] of fieldsOf(old)) {
    const before = typed.get(name);
    if (!before) continue;
    if (before.value !== before.defaultValue) field.value = before.value;
    if (before.checked !== before.defaultChecked) field.checked = before.checked;
  }
  // A question must not push down what somebody reads: it lies over the page until it is put in its place.
  if (old.dataset.region === "news" && old.offsetHeight > height) old.classList.add("is-late");
  if (old.childElementCount < 2) old.classList.remove("is-late");
  for (const each of old.querySelectorAll("details[id]")) if (open.has(each.id)) each.open = true;
  for (const each of old.querySelectorAll("[data-row]")) if (each.dataset.row === current) each.classList.add("is-current");
}

async function refresh() {
  if (isRefreshing) {
    isStale = true;
    return;
  }
  isRefreshing = true;
  const began = performance.now();
  const detail = news;
  try {
    const page = parse(await fetchText(location.href));
    for (const old of document.querySelectorAll("[data-region]")) {
      const fresh = page.querySelector(`[data-region="${old.dataset.region}"]`);
      if (fresh && isUsed(old)) isHeld = true;
      else if (fresh) replace(old, fresh);
    }
    for (const listener of listeners) listener(detail);
  } catch {
    // The server is gone for the moment; the next event tries again.
  } finally {
    isRefreshing = false;
    if (isStale) {
      isStale = false;
      // A page that a store takes long to make is asked for less often, but one slow answer must not leave an old page for minutes.
      setTimeout(refresh, Math.min(Math.max(250, 4 * (performance.now() - began)), 5000));
    }
  }
}

function show() {
  const button = document.querySelector("[data-live-toggle]");
  button.setAttribute("aria-pressed", String(isOn));
  button.querySelector("[data-live-word]").textContent = isOn ? "Live" : "Paused";
}

function connect(url) {
  source?.close();
  source = new EventSource(url);
  source.addEventListener("change", (event) => {
    news = event.data;
    refresh();
  });
}

// Events that came while nobody listened are lost: what they said is asked for.
function reconnect(url) {
  connect(url);
  refresh();
}

export function toggleLive() {
  const element = document.querySelector("[data-live]");
  if (!element) return;
  isOn = !isOn;
  if (isOn) reconnect(element.dataset.live);
  else source?.close();
  show();
}

export function startLive() {
  const element = document.querySelector("[data-live]");
  if (!element) return;
  const button = document.querySelector("[data-live-toggle]");
  button.hidden = false;
  button.addEventListener("click", toggleLive);
  document.addEventListener("click", (event) => {
    event.target.closest("[data-settle]")?.parentElement.classList.remove("is-late");
  });
  for (const type of ["focusout", "click"]) {
    document.addEventListener(type, () => {
      if (!isHeld || !isOn) return;
      isHeld = false;
      setTimeout(refresh, 300); // not between the two halves of a click
    });
  }
  connect(element.dataset.live);
  show();
  // A browser keeps few connections to one server: tabs that nobody sees must not hold them all.
  document.addEventListener("visibilitychange", () => {
    if (!isOn) return;
    if (document.visibilityState === "hidden") source?.close();
    else reconnect(element.dataset.live);
  });
  addEventListener("pagehide", () => source?.close());
  // The back button may show the page as it was left.
  addEventListener("pageshow", (event) => {
    if (event.persisted && isOn) reconnect(element.dataset.live);
  });
}
