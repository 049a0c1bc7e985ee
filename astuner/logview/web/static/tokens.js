// Tokens of an episode. The page holds their text in blocks; a block that comes near the screen is
// drawn again token by token, in the same place, so nothing moves and ten thousand scroll freely.
// Imports nothing, so that a kept page can hold it.

const box = document.getElementById("tokens");
const source = document.getElementById("token-data");
const COLOURS = ["sampled", "gap", "ratio", "advantage"];
const IMPROBABLE = [0.02, 0.1, 0.3, 0.6, 1, 1.6, 2.4, 3.6, 5.2]; // nats below certain
const APART = [0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]; // nats between the two sides

const step = (value, steps) => steps.filter((edge) => value >= edge).length;

class Tokens {
  constructor(data) {
    this.first = data.first;
    this.last = data.last;
    this.pieces = data.pieces;
    this.special = new Set(data.special);
    this.partial = new Set(data.partial);
    this.spans = data.sequences.flatMap((sequence) =>
      sequence.spans.map((span) => ({ advantage: sequence.advantage, ...span, sequence: sequence.index })),
    );
    this.greatest = Math.max(1e-9, ...this.spans.map((one) => Math.abs(one.advantage ?? 0)));
  }

  at(number) {
    let [low, high] = [0, this.spans.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.spans[middle].start <= number) low = middle;
      else high = middle - 1;
    }
    const span = this.spans[low];
    const place = number - span.start;
    const id = span.ids[place];
    const [logprob, recomputed] = [span.logprobs?.[place] ?? null, span.recomputed?.[place] ?? null];
    const gap = logprob === null || recomputed === null ? null : recomputed - logprob;
    return { number, span, id, piece: this.pieces[id] ?? null, logprob, recomputed, gap };
  }

  firstTrained() {
    return this.spans.find((span) => span.fate === "trained")?.start ?? this.first;
  }

  look(token, colour) {
    const { span, id } = token;
    const names = ["t", span.fate === "given" ? "given" : span.fate === "trained" ? "trained" : "masked"];
    if (token.piece === null) names.push("id");
    else if (this.special.has(id)) names.push("special");
    else if (this.partial.has(id)) names.push("bytes");
    if (span.fate === "trained") names.push(...this.depth(token, colour));
    return names.join(" ");
  }

  depth(token, colour) {
    if (colour === "sampled") return token.logprob === null ? [] : [`d${step(-token.logprob, IMPROBABLE)}`];
    const value = colour === "advantage" ? token.span.advantage : token.gap;
    if (value === null || value === undefined) return ["unknown"];
    const size = Math.abs(value);
    const depth = colour === "advantage" ? Math.round((9 * size) / this.greatest) : step(size, APART);
    return [`d${depth}`, value > 0 ? "more" : "less"];
  }
}

function elementOf(tokens, number, colour) {
  const token = tokens.at(number);
  const one = document.createElement("span");
  one.className = tokens.look(token, colour);
  one.id = `t${number}`;
  one.tabIndex = -1;
  const text = token.piece === null ? `${token.id} ` : tokens.partial.has(token.id) ? `${token.piece} ` : token.piece;
  const lines = text.split("\n");
  lines.forEach((line, place) => {
    if (line) one.append(line);
    if (place < lines.length - 1) one.append(Object.assign(document.createElement("i"), { textContent: "\n" }));
  });
  return one;
}

const signed = (value, digits) => (value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(digits);

// What would not be seen, or would turn the text around, is written out.
const spelled = (text) =>
  JSON.stringify(text).replace(/[\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu, (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);

function probability(logprob) {
  const percent = 100 * Math.exp(logprob);
  return percent >= 99.95 ? "100 %" : percent >= 0.1 ? `${percent.toPrecision(3)} %` : `${percent.toExponential(1)} %`;
}

function linesOf(token) {
  const { span, gap } = token;
  const lines = [`${token.piece === null ? "" : `${spelled(token.piece)}  `}id ${token.id}`];
  if (token.logprob !== null) {
    const parts = [`log-probability ${signed(token.logprob, 3)} sampled`];
    if (token.recomputed !== null) {
      parts.push(`${signed(token.recomputed, 3)} trainer`, `ratio ${Math.exp(gap).toFixed(4)}`);
    }
    lines.push(parts.join(" · "));
    const known = [`probability ${probability(token.logprob)}`];
    if (span.fate === "trained" && span.advantage !== null) {
      known.push(`advantage ${span.advantage > 0 ? "+" : ""}${signed(span.advantage, 3)}`);
    }
    lines.push(known.join(" · "));
  }
  const version = span.version ?? null;
  lines.push(version === null ? span.why : `${span.why} · weights of update ${version}`);
  lines.push(`token ${token.number} · call ${span.call + 1} · sequence ${span.sequence + 1}`);
  return lines;
}

class View {
  constructor(box, tokens) {
    this.box = box;
    this.tokens = tokens;
    this.colour = box.dataset.colour;
    this.current = tokens.firstTrained();
    this.isPinned = false;
    this.tip = document.getElementById("tip");
    this.blocks = [...box.querySelectorAll("[data-first]")];
    const near = new IntersectionObserver((seen) => {
      for (const one of seen) if (one.isIntersecting) this.draw(one.target, near);
    }, { rootMargin: "900px" });
    for (const block of this.blocks) near.observe(block);
    this.element(this.current)?.setAttribute("tabindex", "0");
    box.addEventListener("pointerover", (event) => this.hover(event.target));
    box.addEventListener("pointerleave", () => this.isPinned || this.hide());
    box.addEventListener("focusin", (event) => this.focused(event.target));
    box.addEventListener("focusout", () => this.isPinned || this.hide());
    box.addEventListener("click", (event) => this.pinAt(event.target));
    box.addEventListener("keydown", (event) => this.pressed(event));
  }

  draw(block, near) {
    near?.unobserve(block);
    if (block.dataset.drawn) return;
    block.dataset.drawn = "yes";
    const all = document.createDocumentFragment();
    for (let number = Number(block.dataset.first); number < Number(block.dataset.last); number += 1) {
      all.append(elementOf(this.tokens, number, this.colour));
    }
    block.replaceChildren(all);
  }

  // The element of a token, drawn if it was not yet.
  element(number) {
    const block = this.blocks.find((one) => Number(one.dataset.last) > number);
    if (!block || Number(block.dataset.first) > number) return null;
    this.draw(block);
    return document.getElementById(`t${number}`);
  }

  numberOf(target) {
    const one = target instanceof Element ? target.closest(".t") : null;
    return one ? Number(one.id.slice(1)) : null;
  }

  hover(target) {
    const number = this.numberOf(target);
    if (number !== null && !this.isPinned) this.show(number);
  }

  focused(target) {
    const number = this.numberOf(target);
    if (number === null) return;
    this.element(this.current)?.setAttribute("tabindex", "-1");
    this.current = number;
    const one = this.element(number);
    one.tabIndex = 0;
    one.setAttribute("role", "button");
    one.setAttribute("aria-label", linesOf(this.tokens.at(number)).join("; "));
    if (this.isPinned) this.unpin();
    this.show(number);
  }

  show(number) {
    const one = this.element(number);
    if (!one) return;
    this.tip.replaceChildren(...linesOf(this.tokens.at(number)).map((line) => {
      return Object.assign(document.createElement("div"), { textContent: line });
    }));
    this.tip.hidden = false;
    const [around, own] = [this.box.getBoundingClientRect(), one.getClientRects()[0] ?? one.getBoundingClientRect()];
    const [width, height] = [this.tip.offsetWidth, this.tip.offsetHeight];
    const isBelow = own.bottom + height + 12 < innerHeight || own.top < height + 70;
    const left = Math.min(own.left, innerWidth - width - 12);
    this.tip.style.left = `${Math.max(8, left) - around.left}px`;
    this.tip.style.top = `${(isBelow ? own.bottom + 7 : own.top - height - 7) - around.top}px`;
  }

  hide() {
    this.tip.hidden = true;
  }

  pinAt(target) {
    const number = this.numberOf(target);
    if (number === null || String(getSelection())) return;
    this.element(number).focus({ preventScroll: true });
    this.pin(number);
  }

  pin(number) {
    this.unpin();
    this.isPinned = true;
    this.show(number);
    this.tip.classList.add("pinned");
    this.element(number).setAttribute("aria-pressed", "true");
    history.replaceState(null, "", `#t${number}`);
  }

  unpin() {
    if (!this.isPinned) return;
    this.isPinned = false;
    this.tip.classList.remove("pinned");
    this.box.querySelector("[aria-pressed]")?.removeAttribute("aria-pressed");
    history.replaceState(null, "", location.pathname + location.search);
  }

  pressed(event) {
    if (this.numberOf(event.target) === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const { first, last } = this.tokens;
    const steps = {
      ArrowRight: () => this.current + 1,
      ArrowLeft: () => this.current - 1,
      ArrowDown: () => this.line(1),
      ArrowUp: () => this.line(-1),
      Home: () => first,
      End: () => last - 1,
    };
    if (event.key in steps) this.go(Math.min(last - 1, Math.max(first, steps[event.key]())));
    else if (event.key === "Enter" || event.key === " ") this.isPinned ? this.unpin() : this.pin(this.current);
    else if (event.key === "Escape") { this.unpin(); this.hide(); }
    else return;
    event.preventDefault();
  }

  go(number) {
    const one = this.element(number);
    one?.focus({ preventScroll: true });
    one?.scrollIntoView({ block: "nearest" });
    if (one) this.show(number);
  }

  // The token nearest in the line above or below.
  line(direction) {
    const own = this.element(this.current).getBoundingClientRect();
    let [best, far, row] = [this.current, Infinity, null];
    for (let number = this.current + direction; number >= this.tokens.first && number < this.tokens.last; number += direction) {
      const one = this.element(number).getClientRects()[0];
      if (!one || Math.abs(one.top - own.top) < 4) continue;
      if (row !== null && Math.abs(one.top - row) > 4) break;
      row = one.top;
      const away = Math.abs(one.left - own.left);
      if (away < far) [best, far] = [number, away];
    }
    return best;
  }

  paint(colour) {
    this.colour = colour;
    this.box.dataset.colour = colour;
    for (const one of this.box.querySelectorAll(".t")) {
      one.className = this.tokens.look(this.tokens.at(Number(one.id.slice(1))), colour);
    }
  }

  // A link that names a token opens at it, on whichever page of tokens it stands.
  open() {
    const named = /^#t(\d+)$/.exec(location.hash);
    if (!named) return;
    const number = Number(named[1]);
    const one = this.element(number);
    if (one) {
      one.scrollIntoView({ block: "center" });
      one.focus({ preventScroll: true });
      this.pin(number);
    } else if (this.box.dataset.at && number < Number(this.box.dataset.total)) {
      location.replace(`${this.box.dataset.at.replace(/\btoken=0\b/, `token=${number}`)}#t${number}`);
    }
  }
}

if (box && source) {
  const view = new View(box, new Tokens(JSON.parse(source.textContent)));
  const choices = [...document.querySelectorAll("[data-colour-by]")];
  const choose = (colour) => {
    view.paint(colour);
    for (const one of choices) {
      if (one.dataset.colourBy === colour) one.setAttribute("aria-current", "true");
      else one.removeAttribute("aria-current");
    }
    for (const one of document.querySelectorAll("[data-legend]")) one.hidden = one.dataset.legend !== colour;
    if (location.protocol === "file:") return;
    const address = new URL(location.href);
    address.searchParams.set("colour", colour);
    history.replaceState(null, "", address);
  };
  for (const one of choices) {
    one.addEventListener("click", (event) => { event.preventDefault(); choose(one.dataset.colourBy); });
  }
  document.querySelector("[data-action=colour]")?.addEventListener("click", (event) => {
    event.preventDefault();
    const known = COLOURS.filter((colour) => choices.some((one) => one.dataset.colourBy === colour));
    choose(known[(known.indexOf(view.colour) + 1) % known.length]);
  });
  view.open();
  addEventListener("hashchange", () => view.open());
}
