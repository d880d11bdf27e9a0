"use strict";
(() => {
  // Items are in the page already; this hides those that nobody asked for. Without scripts all of them are shown.
  const form = document.getElementById("item-filters");
  if (!form) return;
  const items = Array.from(document.querySelectorAll(".item"));
  const count = document.getElementById("item-count");
  const searched = items.map((item) => item.textContent.toLowerCase());
  const chosen = ["run", "task", "outcome"].map((name) => [name, form.elements.namedItem(name)]);

  const show = () => {
    const words = form.elements.namedItem("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, index) => {
      const fits = chosen.every(([name, field]) => !field || !field.value || item.dataset[name] === field.value);
      item.hidden = !(fits && words.every((word) => searched[index].includes(word)));
      if (!item.hidden) shown += 1;
    });
    const of = items.length === shown ? "All" : `${shown.toLocaleString("en")} of the`;
    count.textContent = `${of} ${items.length.toLocaleString("en")} items in this file are listed.`;
  };

  const visible = () => items.filter((item) => !item.hidden);
  const move = (event, by) => {
    const list = visible();
    const at = list.findIndex((item) => item.contains(document.activeElement));
    const next = list[at < 0 ? 0 : Math.min(list.length - 1, Math.max(0, at + by))];
    if (next) { event.preventDefault(); next.querySelector("summary").focus(); }
  };

  let waiting = 0;
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 80); });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "j") move(event, 1);
    else if (event.key === "k") move(event, -1);
    else if (event.key === "/") { event.preventDefault(); form.elements.namedItem("search").focus(); }
  });
  form.hidden = false;
  show();
})();
