// A list by keyboard: ↓ and ↑ choose an entry by its link, which Enter then opens. A link with
// `data-follows="task"` leads to what the chosen entry names as its `data-task`.

const entries = () => [...document.querySelectorAll("[data-row]")];

function choose(move) {
  const all = entries();
  const at = all.indexOf(document.activeElement);
  const next = at < 0 ? (move > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + move, 0), all.length - 1);
  all[next]?.focus();
}

const moves = { ArrowDown: 1, ArrowUp: -1 };

document.addEventListener("keydown", (event) => {
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.shiftKey;
  if (!isPlain || !(event.key in moves) || event.target.closest("input, textarea, select, dialog")) return;
  event.preventDefault();
  choose(moves[event.key]);
});

document.addEventListener("focusin", (event) => {
  const task = event.target.dataset?.task;
  if (!task) return;
  for (const link of document.querySelectorAll('[data-follows="task"]')) link.href = task;
});
