"use strict";
(() => {
  // The content is fetched again while somebody looks, but never under the hands of whoever reads or types in it.
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
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
      if (isInUse()) return;
      content.replaceChildren(...fresh.childNodes);
      tell(`live, ${new Date().toLocaleTimeString()}`);
      if (!fresh.dataset.live) { clearInterval(timer); tell("ended"); }
    } catch (error) {
      tell(`not refreshed: ${error.message}`);
    }
  };
  const timer = setInterval(refresh, Number(content.dataset.live) * 1000);
  tell("live");
})();
