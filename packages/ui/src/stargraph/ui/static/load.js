// Parts that are loaded once the page stands, and rows of child runs.
import { fetchText, parse, rowsOf, toast } from "./dom.js";
import { onChange } from "./live.js";
import { localise } from "./times.js";

const asked = new WeakMap();

async function fill(element, url) {
  // Answers may come in another order than they were asked for: the last question counts.
  const mine = (asked.get(element) ?? 0) + 1;
  asked.set(element, mine);
  try {
    const page = parse(await fetchText(url));
    if (asked.get(element) !== mine) return;
    localise(page);
    element.replaceChildren(...page.body.childNodes);
  } catch {
    if (asked.get(element) === mine) element.textContent = "This part could not be loaded.";
  }
}

export function startLoads(root) {
  for (const element of root.querySelectorAll("[data-load]")) fill(element, element.dataset.load);
  let waiting;
  onChange(() => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      for (const element of root.querySelectorAll("[data-reload]")) fill(element, element.dataset.load);
    }, 400);
  });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-load-here]");
  if (!button) return;
  const place = button.closest("section").querySelector("[data-here]");
  place.textContent = "…";
  fill(place, button.dataset.loadHere);
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-children]");
  if (!button) return;
  const row = button.closest("tr");
  const depth = Number(row.dataset.depth);
  if (button.getAttribute("aria-expanded") === "true") {
    button.setAttribute("aria-expanded", "false");
    while (row.nextElementSibling && Number(row.nextElementSibling.dataset.depth) > depth) row.nextElementSibling.remove();
    return;
  }
  button.setAttribute("aria-expanded", "true");
  try {
    const rows = rowsOf(await fetchText(button.dataset.children));
    // In the meantime they may have been closed again, or closed and opened.
    if (button.getAttribute("aria-expanded") !== "true" || Number(row.nextElementSibling?.dataset.depth) > depth) return;
    for (const each of rows) localise(each);
    row.after(...rows);
  } catch {
    button.setAttribute("aria-expanded", "false");
    toast("The child runs could not be loaded");
  }
});
