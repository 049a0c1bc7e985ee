// What every page does: keys, the help that lists them, and live parts. Pages add keys by marking
// links and buttons: `data-key="j" data-key-says="next step"`; several elements with one key: the
// first that is there.

const typing = (target) => target.closest("input:not([type=checkbox], [type=range]), textarea, select, [contenteditable]");

function keyed(key) {
  return [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
}

function showHelp() {
  const list = document.getElementById("help-keys");
  const said = new Map();
  for (const one of document.querySelectorAll("[data-key]")) {
    if (!said.has(one.dataset.key)) said.set(one.dataset.key, one.dataset.keySays ?? one.textContent.trim());
  }
  said.set("?", "these keys");
  list.replaceChildren(
    ...[...said].flatMap(([key, says]) => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.append(Object.assign(document.createElement("kbd"), { textContent: key }));
      text.textContent = says;
      return [term, text];
    }),
  );
  document.getElementById("help").showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "?") return showHelp();
  const found = keyed(event.key);
  if (!found) return;
  event.preventDefault();
  if (found.matches("input, select, textarea")) found.focus();
  else found.click();
});

document.querySelector('[data-action="help"]')?.addEventListener("click", showHelp);

// A page with `<body data-live="/runs/…/live">` asks there whether something is new. What is new is
// the same page again: its elements with `data-live` take the place of those with the same id, and
// whoever draws from data hears `astuner:fresh`. What is shown stays where there is nothing new any
// more: the viewer of a run ends with it.
const EVERY = 2000;

function sayAway(text) {
  const said = document.getElementById("away");
  if (said && said.textContent !== text) said.textContent = text;
}

async function follow(address) {
  let known = null;
  for (;;) {
    await new Promise((wake) => setTimeout(wake, EVERY));
    if (document.hidden) continue;
    try {
      const answer = await fetch(address);
      if (answer.status === 410) return sayAway("This run was deleted or moved. The page stays as it was.");
      if (!answer.ok) continue;
      const found = await answer.text();
      // At first too: more may stand there since the page was served.
      if (found !== known && (await refresh())) known = found;
    } catch {
      sayAway("The viewer has ended, or cannot be reached. The page stays as it was.");
      continue;
    }
    sayAway("");
  }
}

// Whether the page could be had again.
export async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) return false;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const one of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(one.id);
    if (!other || one.isEqualNode(other) || one.contains(document.activeElement)) continue;
    const copy = document.importNode(other, true);
    for (const { id, open } of one.querySelectorAll("details[id]")) copy.querySelector(`#${CSS.escape(id)}`)?.toggleAttribute("open", open);
    one.replaceWith(copy);
  }
  document.dispatchEvent(new CustomEvent("astuner:fresh"));
  return true;
}

if (document.body.dataset.live) follow(document.body.dataset.live);
