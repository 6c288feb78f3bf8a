// Before the first paint, so that nobody sees the other colours flash.
{
  const chosen = localStorage.getItem("stargraph-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
