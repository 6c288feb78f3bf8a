// The list of steps: only what is in sight exists, so that 20,000 steps cost what 50 do.
import { fetchText, parse, toast } from "./dom.js";
import { onChange } from "./live.js";
import { localise } from "./times.js";

const HEIGHT = 34;
const PAGE = 100;
const KEPT = 12;

export function startSteps() {
  const view = document.querySelector("[data-steps]");
  if (!view) return;
  const all = view.querySelector(".steps-all");
  const detail = document.querySelector("[data-detail]");
  const pages = new Map();
  let last = Number(view.dataset.last);
  let chosen = Number(view.dataset.chosen);
  let follows = !("pinned" in view.dataset);

  const pagesInSight = () => {
    const first = Math.max(Math.floor(view.scrollTop / HEIGHT) - 20, 0);
    const end = Math.min(Math.ceil((view.scrollTop + view.clientHeight) / HEIGHT) + 20, last);
    const found = [];
    for (let page = Math.floor(first / PAGE); page <= Math.floor(end / PAGE); page++) found.push(page);
    return found;
  };

  async function load(page) {
    const rows = [];
    pages.set(page, rows);
    const first = page * PAGE;
    try {
      const html = await fetchText(`${view.dataset.steps}?first=${first}&last=${Math.min(first + PAGE - 1, last)}`);
      const found = [...parse(html).querySelectorAll(".step")];
      if (pages.get(page) !== rows) return;
      for (const row of found) {
        localise(row);
        row.style.top = `${Number(row.dataset.step) * HEIGHT}px`;
        row.classList.toggle("is-current", Number(row.dataset.step) === chosen);
        row.setAttribute("aria-setsize", String(last + 1));
        row.setAttribute("aria-posinset", String(Number(row.dataset.step) + 1));
      }
      const next = [...all.children].find((row) => Number(row.dataset.step) > first);
      rows.push(...found);
      for (const row of found) all.insertBefore(row, next ?? null);
    } catch {
      if (pages.get(page) === rows) pages.delete(page);
    }
  }

  function show() {
    all.style.height = `${(last + 1) * HEIGHT}px`;
    const wanted = pagesInSight();
    for (const page of wanted) if (!pages.has(page)) load(page);
    for (const page of pages.keys()) {
      if (pages.size <= KEPT) break;
      if (!wanted.includes(page)) {
        for (const row of pages.get(page)) row.remove();
        pages.delete(page);
      }
    }
  }

  function reveal(step) {
    const top = step * HEIGHT;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + HEIGHT > view.scrollTop + view.clientHeight) view.scrollTop = top + HEIGHT - view.clientHeight;
  }

  function mark() {
    for (const row of all.children) row.classList.toggle("is-current", Number(row.dataset.step) === chosen);
  }

  let loading = 0;
  async function choose(step, remember) {
    chosen = Math.min(Math.max(step, 0), last);
    follows = !remember && follows;
    mark();
    reveal(chosen);
    const mine = ++loading;
    if (remember) history.pushState({ step: chosen }, "", `?step=${chosen}`);
    try {
      const page = parse(await fetchText(`${detail.dataset.detail}${chosen}`));
      if (mine !== loading) return;
      localise(page);
      detail.replaceChildren(...page.body.childNodes);
    } catch {
      if (mine === loading) toast("This step could not be loaded: it was pruned, or the server is gone");
    }
  }

  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    const row = event.target.closest(".step a");
    const go = event.target.closest("[data-go]");
    if (!row && !go) return;
    event.preventDefault();
    choose(Number(row ? row.parentElement.dataset.step : go.dataset.go), true);
  });
  addEventListener("popstate", () => {
    const step = new URLSearchParams(location.search).get("step");
    choose(step === null ? last : Number(step), false);
  });
  let moving;
  view.addEventListener("move", (event) => {
    chosen = Math.min(Math.max(chosen + event.detail, 0), last);
    mark();
    reveal(chosen);
    clearTimeout(moving);
    moving = setTimeout(() => choose(chosen, true), 120);
  });
  view.addEventListener("scroll", show, { passive: true });
  onChange((step) => {
    const latest = Number(step);
    if (!(latest > last)) return;
    const tail = Math.floor(last / PAGE);
    last = latest;
    for (const row of pages.get(tail) ?? []) row.remove();
    pages.delete(tail);
    show();
    if (follows) choose(last, false);
  });
  show();
  view.scrollTop = Math.max(chosen * HEIGHT - view.clientHeight / 2, 0);
  show();
}
