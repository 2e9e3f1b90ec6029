"use strict";

// --- Sections
for (const section of document.querySelectorAll("main > section[id]")) {
  const item = document.createElement("li"), link = document.createElement("a");
  link.href = "#" + section.id;
  link.textContent = section.dataset.short || section.querySelector("h2").textContent;
  item.append(link);
  document.getElementById("sections").append(item);
}

// --- Light and dark
const theme = document.getElementById("theme"), root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", "Use " + (isDark() ? "light" : "dark") + " colours"); };
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("kit-theme", root.dataset.theme); } catch {}
  nameTheme();
});
prefersDark.addEventListener("change", nameTheme);
theme.hidden = false;
nameTheme();

// --- Tables sorted by a column; what has no value comes last in either direction
const inOrder = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const isNumber = heading.classList.contains("number"), was = heading.getAttribute("aria-sort");
    // What matters is mostly at the large end of numbers, and at the beginning of the alphabet.
    const ascending = was ? was === "descending" : !isNumber;
    const rows = [...body.rows].map((row) => ({ row, value: row.cells[column].dataset.sort }));
    const compare = isNumber ? (a, b) => a - b : inOrder;
    rows.sort((a, b) => (a.value === "") - (b.value === "") || (ascending ? 1 : -1) * compare(a.value, b.value));
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...rows.map((one) => one.row));
  }));
}

// --- What is wider than its place says that it goes on
const look = (box) => { box.nextElementSibling.hidden = box.scrollWidth <= box.clientWidth + 1; };
const looked = new ResizeObserver((entries) => entries.forEach((entry) => look(entry.target)));
for (const box of document.querySelectorAll(".scroll, .drawing")) {
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.textContent = "It goes on to the right: scroll it →";
  box.after(hint);
  look(box);
  looked.observe(box);
}

// --- Filters: every word must occur
const plain = (text) => text.normalize("NFKC").toLocaleLowerCase();
for (const input of document.querySelectorAll("input[data-filters]")) {
  const count = input.parentElement.querySelector("output");
  let texts;
  input.addEventListener("input", () => {
    texts ??= [...document.querySelectorAll(input.dataset.filters)].map((item) => [item, plain(item.textContent)]);
    const words = plain(input.value).split(/\s+/).filter(Boolean);
    let left = 0;
    for (const [item, text] of texts) left += !(item.hidden = !words.every((word) => text.includes(word)));
    count.textContent = words.length ? `${left.toLocaleString("en")} of ${texts.length.toLocaleString("en")}` : texts.length.toLocaleString("en");
  });
}

// --- Pictures, enlarged: those of one gallery one after the other
const dialog = document.getElementById("enlarged"), place = document.getElementById("enlarged-picture");
const words = document.getElementById("enlarged-text");
const steps = { ArrowLeft: document.getElementById("previous"), ArrowRight: document.getElementById("next") };
let item = null;
const beside = (direction) => {
  let other = item;
  do other = direction < 0 ? other.previousElementSibling : other.nextElementSibling;
  while (other && (other.hidden || !other.querySelector("img")));
  return other;
};
const show = (other) => {
  item = other;
  place.replaceChildren(...[...item.querySelectorAll("img")].map((image) => image.cloneNode()));
  words.replaceChildren(...[...item.querySelectorAll(".lines")].map((lines) => lines.cloneNode(true)));
  steps.ArrowLeft.disabled = !beside(-1);
  steps.ArrowRight.disabled = !beside(1);
};
document.addEventListener("click", (event) => {
  const button = event.target.closest(".enlarge");
  if (button) { show(button.closest("li")); dialog.showModal(); }
  else if (event.target === dialog) dialog.close();
});
steps.ArrowLeft.addEventListener("click", () => show(beside(-1)));
steps.ArrowRight.addEventListener("click", () => show(beside(1)));
dialog.addEventListener("keydown", (event) => { const step = steps[event.key]; if (step && !step.disabled) step.click(); });
// Focus goes back to the picture that was looked at last.
dialog.addEventListener("close", () => item.querySelector(".enlarge").focus());
