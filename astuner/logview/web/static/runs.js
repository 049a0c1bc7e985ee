// Runs that begin while the list is shown appear in it; what was ticked stays ticked.

document.addEventListener("astuner:fresh", () => {
  const fresh = [...document.getElementById("row-shells").content.querySelectorAll("tr")];
  const rows = document.getElementById("run-rows");
  if (!rows) {
    if (fresh.length) location.reload();
    return;
  }
  let next = null;
  for (const row of fresh.reverse()) {
    next = document.getElementById(row.id) ?? rows.insertBefore(document.importNode(row, true), next);
  }
});
