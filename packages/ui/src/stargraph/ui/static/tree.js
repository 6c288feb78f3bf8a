// The tree of a state: members are loaded when they are looked at, values are copied from the server.
import { fetchText, parse, toast } from "./dom.js";

async function branches(url) {
  return parse(await fetchText(url)).querySelector("ul.tree");
}

export function startTree() {
  document.addEventListener("toggle", async (event) => {
    const details = event.target;
    if (!details.open || !details.dataset?.tree) return;
    const url = details.dataset.tree;
    delete details.dataset.tree;
    try {
      details.append(await branches(url));
    } catch {
      details.dataset.tree = url;
      details.open = false;
      toast("This part could not be loaded");
    }
  }, true);

  document.addEventListener("click", async (event) => {
    const more = event.target.closest("[data-more]");
    if (more) {
      try {
        const list = await branches(more.dataset.more);
        more.closest("li").replaceWith(...list.children);
      } catch {
        toast("More could not be loaded");
      }
    }
    const copy = event.target.closest("[data-copy-from]");
    if (copy) {
      event.preventDefault();
      try {
        await navigator.clipboard.writeText(await fetchText(copy.dataset.copyFrom));
        toast("Copied");
      } catch {
        toast("It could not be copied");
      }
    }
  });

  document.addEventListener("submit", (event) => {
    if (event.target.matches("[data-find]")) {
      event.preventDefault();
      find(event.target);
    }
  });
  let waiting;
  document.addEventListener("input", (event) => {
    const form = event.target.closest("[data-find]");
    if (!form) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => find(form), 250);
  });
}

async function find(form) {
  const place = form.closest("section").querySelector("[data-found]");
  const words = new FormData(form).get("q");
  try {
    const page = parse(await fetchText(`${form.dataset.find}?q=${encodeURIComponent(words)}`));
    if (new FormData(form).get("q") === words) place.replaceChildren(...page.body.childNodes);
  } catch {
    toast("The search did not work");
  }
}
