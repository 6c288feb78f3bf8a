// The keyboard: j and k move, Enter opens, / searches, ? helps, Esc leaves.
import { toggleLive } from "./live.js";

let last = "";

function rows() {
  return [...document.querySelectorAll("[data-list] [data-row]")];
}

function move(by) {
  const steps = document.querySelector("[data-steps]");
  if (steps) {
    steps.dispatchEvent(new CustomEvent("move", { detail: by }));
    return;
  }
  const all = rows();
  if (!all.length) return;
  const at = all.findIndex((row) => row.classList.contains("is-current"));
  const next = all[Math.min(Math.max(at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by, 0), all.length - 1)];
  for (const row of all) row.classList.toggle("is-current", row === next);
  // Enter opens what has the focus, Tab continues from there, and a screen reader says where it is.
  next.querySelector("a[href]")?.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

export function startKeys() {
  const help = document.getElementById("help");
  const helpButton = document.querySelector("[data-help]");
  helpButton.hidden = false;
  helpButton.addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest("input, textarea, select");
    if (event.key === "Escape" && field) {
      field.blur();
      return;
    }
    if (field || help.open) return;
    const before = last;
    last = event.key;
    if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "Enter" && !event.target.closest("a, button, summary")) {
      document.querySelector("[data-list] .is-current a[href]")?.click();
    } else if (event.key === "/") {
      const search = document.querySelector("[data-search]");
      if (!search) return;
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "?") help.showModal();
    else if (event.key === "p") toggleLive();
    else if (event.key === "r" && before === "g") document.querySelector(".brand").click();
  });
}
