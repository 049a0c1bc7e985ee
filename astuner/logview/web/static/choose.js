// A list by keyboard: ↓ and ↑ choose an entry by its link, ← and → one of several side by side, which
// is marked `data-row="across"`; Enter then opens it. A link with `data-follows="task"` leads to what
// the chosen entry names as its `data-task`.

const MOVES = { ArrowDown: ["", 1], ArrowUp: ["", -1], ArrowRight: ["across", 1], ArrowLeft: ["across", -1] };

function choose(kind, move) {
  const all = [...document.querySelectorAll(`[data-row="${kind}"]`)];
  if (all.length === 0) return false;
  const at = all.findIndex((one) => one === document.activeElement || one.closest("article")?.contains(document.activeElement));
  const next = at < 0 ? (move > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + move, 0), all.length - 1);
  all[next].focus();
  return true;
}

document.addEventListener("keydown", (event) => {
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.shiftKey;
  if (!isPlain || !(event.key in MOVES) || event.target.closest("input, textarea, select, dialog")) return;
  if (choose(...MOVES[event.key])) event.preventDefault();
});

document.addEventListener("focusin", (event) => {
  const task = event.target.dataset?.task;
  if (!task) return;
  for (const link of document.querySelectorAll('[data-follows="task"]')) link.href = task;
});
