// Runs before anything is drawn, so that a page does not flash in the other theme.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* storage is switched off */ }
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
})();
