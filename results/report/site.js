"use strict";
const byId = (id) => document.getElementById(id);

// Theme: as the system says (auto), light, dark; remembered where the browser allows it.
(() => {
  const root = document.documentElement, button = byId("theme"), label = button.querySelector("span");
  const order = ["", "light", "dark"], names = { "": "auto", light: "light", dark: "dark" };
  const show = () => { label.textContent = names[root.dataset.theme ?? ""]; };
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(root.dataset.theme ?? "") + 1) % order.length];
    if (next) root.dataset.theme = next; else delete root.dataset.theme;
    try { if (next) localStorage.setItem("theme", next); else localStorage.removeItem("theme"); } catch { /* only for this page */ }
    show();
  });
  show();
})();

// Navigation on a narrow screen.
(() => {
  const button = byId("menu");
  button.addEventListener("click", () => {
    const open = document.body.classList.toggle("menu-open");
    button.setAttribute("aria-expanded", String(open));
  });
  document.querySelector("#navigation [aria-current]")?.scrollIntoView({ block: "nearest" });
})();

// Search over titles and headings.
(() => {
  const input = byId("search"), list = byId("results"), status = byId("found"), most = 12;
  const entries = SEARCH.flatMap((page) => [
    { href: page.file, title: page.title, group: page.group, text: `${page.title} ${page.group}`.toLowerCase(), rank: 0 },
    ...page.parts.map(([id, part]) => (
      { href: `${page.file}#${id}`, title: part, group: page.title, text: `${part} ${page.title}`.toLowerCase(), rank: 1 })),
  ]);
  const find = (words) => entries
    .filter((entry) => words.every((word) => entry.text.includes(word)))
    .sort((a, b) => a.rank - b.rank);
  const close = () => { list.hidden = true; };
  const links = () => [...list.querySelectorAll("a")];
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    list.replaceChildren();
    status.textContent = "";
    list.hidden = !words.length;
    if (!words.length) return;
    const found = find(words);
    for (const entry of found.slice(0, most)) {
      const link = document.createElement("a");
      link.href = entry.href;
      link.append(entry.title, Object.assign(document.createElement("small"), { textContent: entry.group }));
      list.append(link);
    }
    if (!found.length) list.append(Object.assign(document.createElement("p"), { textContent: "Nothing found" }));
    status.textContent = `${found.length} found`;
  };
  input.addEventListener("input", show);
  input.addEventListener("focus", show);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") links()[0]?.click();
    if (event.key === "ArrowDown") { links()[0]?.focus(); event.preventDefault(); }
    if (event.key === "Escape") close();
  });
  list.addEventListener("keydown", (event) => {
    const all = links(), at = all.indexOf(document.activeElement);
    if (event.key === "ArrowDown") { all[Math.min(at + 1, all.length - 1)].focus(); event.preventDefault(); }
    if (event.key === "ArrowUp") { (at ? all[at - 1] : input).focus(); event.preventDefault(); }
    if (event.key === "Escape") { input.focus(); close(); }
  });
  document.addEventListener("click", (event) => { if (!event.target.closest(".search")) close(); });
  list.addEventListener("click", close);
})();

// One button for all code of a page.
(() => {
  const button = document.querySelector(".fold-all"), folds = [...document.querySelectorAll("details.code")];
  if (!button) return;
  const show = () => {
    const open = folds.every((fold) => fold.open);
    button.textContent = open ? "Hide all code" : "Show all code";
    button.setAttribute("aria-pressed", String(open));
  };
  button.addEventListener("click", () => {
    const open = !folds.every((fold) => fold.open);
    for (const fold of folds) fold.open = open;
    show();
  });
  for (const fold of folds) fold.addEventListener("toggle", show);
  show();
})();

// Gallery: filters, sliders, and an address that remembers the choice.
(() => {
  const gallery = document.querySelector(".gallery");
  if (!gallery) return;
  const cards = [...gallery.children], filters = ["dataset", "method", "outcome"].map(byId);
  const slide = (range) => {
    const card = range.closest(".card");
    card.style.setProperty("--shown", range.value / 100);
    range.setAttribute("aria-valuetext", `${range.value} % map`);
  };
  const filter = () => {
    let shown = 0;
    for (const card of cards) {
      card.hidden = !filters.every(({ id, value }) => !value || card.dataset[id] === value);
      shown += !card.hidden;
    }
    byId("shown").textContent = `${shown} of ${cards.length} shown`;
    byId("none").hidden = shown > 0;
  };
  const fromAddress = () => {
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
      const select = filters.find(({ id }) => id === name);
      if (select && [...select.options].some((option) => option.value === value)) select.value = value;
    }
    filter();
  };
  for (const select of filters) {
    select.addEventListener("change", () => {
      filter();
      const choice = new URLSearchParams(filters.map(({ id, value }) => [id, value]));
      try { history.replaceState(null, "", `#${choice}`); } catch { /* the address stays */ }
    });
  }
  gallery.addEventListener("input", (event) => { if (event.target.type === "range") slide(event.target); });
  byId("all").addEventListener("input", (event) => {
    for (const range of gallery.querySelectorAll("input[type=range]")) { range.value = event.target.value; slide(range); }
  });
  byId("edges").addEventListener("change", (event) => gallery.classList.toggle("no-edges", !event.target.checked));
  addEventListener("hashchange", fromAddress);
  fromAddress();
})();
