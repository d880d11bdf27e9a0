"use strict";
(() => {
  // The page is fetched again while somebody looks, but never under the hands of whoever reads or types in it.
  const content = document.querySelector("main[data-live]");
  if (!content) return;
  const told = document.getElementById("live-status");
  const isInUse = () =>
    document.hidden || content.querySelector("details[open]") || (content.contains(document.activeElement) && document.activeElement !== content) ||
    String(document.getSelection()) !== "";
  const tell = (words) => { told.textContent = words; };
  const refresh = async () => {
    if (isInUse()) return tell("paused while you read");
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "error" });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (isInUse()) return;
      // What has ended is shown whole, with what only a whole page brings.
      if (!fresh.querySelector("main[data-live]")) return location.reload();
      for (const part of ["header.masthead", "main"]) {
        document.querySelector(part).replaceChildren(...fresh.querySelector(part).childNodes);
      }
      tell(`live, ${new Date().toLocaleTimeString()}`);
    } catch (error) {
      tell(`not refreshed: ${error.message}`);
    }
  };
  // The next one is asked for when this one has come: a slow fleet is not asked more often than it answers.
  const again = () => setTimeout(async () => { await refresh(); again(); }, Number(content.dataset.live) * 1000);
  tell("live");
  again();
})();
