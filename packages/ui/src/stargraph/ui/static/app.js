import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startLoads } from "./load.js";
import { startSteps } from "./steps.js";
import { startTimes } from "./times.js";
import { startTree } from "./tree.js";
import { toast } from "./dom.js";

const themeButton = document.querySelector("[data-theme-toggle]");
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("stargraph-theme", root.dataset.theme);
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    toast("Copied");
  } catch {
    toast("The browser does not allow copying here");
  }
});

for (const form of document.querySelectorAll("form[data-auto]")) {
  form.addEventListener("change", () => form.requestSubmit());
  form.addEventListener("formdata", (event) => {
    // Empty fields would only make the address long.
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}

startTimes(document);
startKeys();
startLoads(document);
startTree();
startSteps();
startLive();
