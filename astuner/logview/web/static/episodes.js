// Walks a list by j and k, and begins to type where a link led to the search.

function walk(direction) {
  const rows = [...document.querySelectorAll(".rows a.row")];
  const place = rows.indexOf(document.activeElement);
  const next = rows[place < 0 ? (direction > 0 ? 0 : rows.length - 1) : place + direction];
  next?.focus();
}

document.querySelector("[data-action=down]")?.addEventListener("click", () => walk(1));
document.querySelector("[data-action=up]")?.addEventListener("click", () => walk(-1));
if (location.hash === "#search") document.getElementById("search")?.focus();

// What asks for nothing stays out of the address.
document.querySelector(".asking")?.addEventListener("submit", (event) => {
  for (const one of event.target.querySelectorAll("input, select")) {
    if (!one.value || (one.name === "order" && one.value === "step")) one.disabled = true;
  }
});
