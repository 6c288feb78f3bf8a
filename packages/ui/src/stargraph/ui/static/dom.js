// The one place where text becomes elements: only what this server has made, and scripts in it never run.
const policy = window.trustedTypes?.createPolicy("stargraph", { createHTML: (text) => text });

export function parse(text) {
  const html = policy ? policy.createHTML(text) : text;
  return new DOMParser().parseFromString(html, "text/html");
}

export function rowsOf(text) {
  return [...parse(`<table><tbody>${text}</tbody></table>`).querySelectorAll("tbody > tr")];
}

export async function fetchText(url) {
  const answer = await fetch(url, { headers: { "X-Fragment": "1" }, credentials: "same-origin" });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.text();
}

let hiding;
export function toast(text) {
  const box = document.querySelector("[data-toast]");
  box.textContent = text;
  box.classList.add("is-shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => box.classList.remove("is-shown"), 2500);
}
