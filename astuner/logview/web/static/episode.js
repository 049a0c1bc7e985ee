// Copies texts whole, shows them raw or rendered, and marks in the outline the call that is read. Imports nothing, so that a kept page holds it.

const episode = document.getElementById("episode");

async function wholeText(one) {
  if (one.dataset.whole && (one.dataset.json === "" || one.dataset.json === undefined)) {
    const answer = await fetch(one.dataset.whole);
    if (answer.ok) return answer.text();
  }
  if (one.dataset.json) return one.dataset.json;
  const own = one.cloneNode(true);
  for (const added of own.querySelectorAll("summary, .hidden-part")) added.remove();
  return own.textContent;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  event.preventDefault();
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(await wholeText(document.getElementById(button.dataset.copy)));
    button.textContent = "copied";
  } catch {
    button.textContent = "not allowed";
  }
  setTimeout(() => { button.textContent = said; }, 1500);
});

document.querySelector("[data-action=raw]")?.addEventListener("click", (event) => {
  event.preventDefault();
  const isRaw = episode.classList.toggle("raw");
  if (location.protocol === "file:") return;
  const address = new URL(location.href);
  if (isRaw) address.searchParams.set("raw", "1");
  else address.searchParams.delete("raw");
  history.replaceState(null, "", address);
});

// The call that is read is the last one that began above the middle of the screen.
const entries = new Map([...document.querySelectorAll(".outline a")].map((link) => [link.hash.slice(1), link]));
const calls = [...document.querySelectorAll("article.call")].filter(({ id }) => entries.has(id));

function markRead() {
  const read = calls.findLast((call) => call.getBoundingClientRect().top < innerHeight / 2);
  for (const [id, link] of entries) link.ariaCurrent = id === (read ?? calls[0]).id ? "true" : null;
}

if (calls.length) {
  const seen = new IntersectionObserver(markRead, { rootMargin: "-50% 0px 0px 0px" });
  for (const call of calls) seen.observe(call);
}
