// One chart: lines over steps, drawn by uPlot into a figure that the server made. What all charts
// of a page share (range of steps, step under the cursor, smoothing, log scale) is given by the page.

import { lastPoint, lonelySteps, pointAt, said, share, smoothed, valueExtent } from "./series.js";

const DASHES = [[], [6, 4], [2, 3]];
const NUM_HUES = 4;
const SIDE = 46;
const MOST_LETTERS = 20;
const MOST_NAMED = 5;
const ROOM_FOR_A_STEP = 14;
const DOUBLE_CLICK_MS = 220;

const ratio = () => window.devicePixelRatio || 1;

// Colours are those of the style sheet, as they are now.
export const colours = {};
export function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "soft", "faint", "line", "paper", "raised", "accent", "accent-soft", "warn", "bad"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
  colours.curves = [...Array(NUM_HUES).keys()].map((i) => style.getPropertyValue(`--curve-${i}`).trim());
  colours.font = style.getPropertyValue("--sans").trim() || "sans-serif";
}

function faded(colour, alpha) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgb(${r} ${g} ${b} / ${alpha})`;
}

function look(line) {
  if (line.part === 0) {
    return { colour: colours.curves[line.run % NUM_HUES], dash: DASHES[Math.floor(line.run / NUM_HUES) % DASHES.length] };
  }
  return { colour: line.part === 1 ? colours.soft : colours.faint, dash: DASHES[(line.part - 1) % DASHES.length] };
}

export class Chart {
  constructor(figure, page) {
    this.figure = figure;
    this.key = figure.dataset.chart;
    this.page = page;
    this.holder = figure.querySelector(".plot");
    this.isLarge = figure.classList.contains("large");
    this.plot = null;
    this.drawnStep = null;
    this.near = null;
    this._makeFocusable();
    new ResizeObserver(() => this._fit()).observe(this.holder);
  }

  // New data, or other values for all that the page shares.
  show(data) {
    this.data = data;
    this.lines = data.lines;
    this.near = null;
    const shape = JSON.stringify([this.page.isLog, this.lines.map((line) => [line.run, line.part])]);
    if (this.plot && shape === this.shape) {
      this.plot.setData(this._table(), false);
      this.rescale();
    } else {
      this.shape = shape;
      this.plot?.destroy();
      this.plot = new uPlot(this._options(), this._table(), this.holder);
      this.rescale();
    }
    this.say(this.page.step);
  }

  rescale() {
    if (!this.plot) return;
    const [from, to] = this.page.range();
    this.plot.setScale("x", from === to ? { min: from - 0.5, max: to + 0.5 } : { min: from, max: to });
    this.placeCursor(this.page.step);
  }

  redraw() {
    this.plot?.redraw(false, true);
  }

  // The vertical line at a step, and the values there in place of the newest ones.
  placeCursor(step) {
    if (!this.plot) return;
    const left = step === null ? -10 : this.plot.valToPos(step, "x");
    this.plot.setCursor({ left, top: step === null ? -10 : 1 }, false);
  }

  say(step) {
    const ofRun = (run) => this.lines.find((line) => line.part === 0 && line.run === Number(run));
    for (const place of this.figure.querySelectorAll("[data-now]")) {
      const line = ofRun(place.dataset.now);
      place.textContent = this._said(line ? this._value(line, step) : null);
    }
    const near = this.figure.querySelector("[data-near]");
    if (near) this._sayNear(near, step);
    const at = this.figure.querySelector("[data-at]");
    if (at) at.textContent = step === null ? "" : `${this.page.counts} ${pointAt(ofRun(0), step).step ?? step}`;
    this.holder.setAttribute("aria-valuenow", step ?? this.page.range()[1]);
    this.holder.setAttribute("aria-valuetext", this._sentence(step));
    if (step !== this.drawnStep && this._hasParts()) this.plot?.redraw(false, false);
    this.drawnStep = step;
  }

  // Of more runs than can be named at the ends of their lines: the one under the pointer, else from
  // the lowest to the highest.
  _sayNear(place, step) {
    const line = this.near;
    const values = this.lines.map((one) => this._value(one, step)).filter((value) => value !== null);
    const ends = new Set(values.length ? [Math.min(...values), Math.max(...values)].map((value) => this._said(value)) : []);
    place.textContent = line ? `${this._said(this._value(line, step))} ${line.label}` : [...ends].join(" to ");
  }

  _value(line, step) {
    return (step === null ? lastPoint(line) : pointAt(line, step)).value;
  }

  _sentence(step) {
    const values = this.lines.map((line) => `${line.label ? `${line.label} ` : ""}${this._said(this._value(line, step))}`);
    const found = this.data.marks.filter(([at]) => at === step).map(([, message]) => `; found: ${message}`);
    return `${step === null ? "newest" : `${this.page.counts} ${step}`}: ${values.join(", ")}${found.join("")}`;
  }

  _table() {
    const { smoothing, isLog } = this.page;
    const usable = (values) => (isLog ? values.map((value) => (value > 0 ? value : null)) : values);
    const tables = this.lines.map((line) => {
      const values = usable(line.values);
      return [line.steps, values, smoothing ? smoothed(values, smoothing) : values.map(() => null)];
    });
    return tables.length ? uPlot.join(tables) : [[]];
  }

  _options() {
    const hand = `${this.isLarge ? 12 : 11}px ${colours.font}`;
    const axis = { stroke: () => colours.faint, font: hand, ticks: { show: false }, gap: 4 };
    const grid = { stroke: () => colours.line, width: 1 };
    return {
      width: Math.max(1, this.holder.clientWidth),
      height: Math.max(1, this.holder.clientHeight),
      legend: { show: false },
      padding: [this.isLarge ? 10 : 8, this._roomForLabels(), 0, 0],
      scales: { x: { time: false }, y: { distr: this.page.isLog ? 3 : 1, range: () => this._valueRange() } },
      axes: [
        { ...axis, size: 22, space: 60, incrs: wholeSteps(), grid: { show: false }, values: (_, splits) => splits.map((v) => said(v)) },
        { ...axis, size: SIDE, space: this.isLarge ? 40 : 22, grid, filter: (_, splits) => splits, values: (_, splits) => splits.map((v) => this._tick(v)) },
      ],
      series: [{}, ...this.lines.flatMap((line) => this._series(line))],
      cursor: {
        y: false,
        focus: { prox: this._isCrowded() ? 24 : -1 },
        points: { size: 7, width: 0, fill: (u, i) => look(this.lines[Math.floor((i - 1) / 2)]).colour },
        drag: { x: true, y: false, setScale: false },
        move: (u, left, top) => [left < 0 ? left : u.valToPos(this.page.nearest(u.posToVal(left, "x")), "x"), top],
        dataIdx: (u, i, nearest) => (i === 0 ? nearest : this._known(u, i, nearest)),
        bind: { dblclick: () => () => this.page.zoom(null) },
      },
      focus: { alpha: 0.25 },
      hooks: {
        drawAxes: [(u) => this._drawIntervals(u)],
        draw: [(u) => this._drawMarks(u), (u) => this._drawLabels(u)],
        setCursor: [(u) => this._moved(u)],
        setSelect: [(u) => this._selected(u)],
        setSeries: [(u, i) => this._pointed(i)],
        ready: [(u) => this._leadOn(u)],
      },
    };
  }

  // Where the point of a line stands: at the value that the figure's head says.
  _known(u, i, nearest) {
    const under = this.page.nearest(u.posToVal(u.cursor.left, "x"));
    const { step } = pointAt(this.lines[Math.floor((i - 1) / 2)], under);
    return step === null ? nearest : u.data[0].indexOf(step);
  }

  // The raw line, which pales where a smooth one lies over it.
  _series(line) {
    const isSmooth = () => this.page.smoothing > 0;
    const lonely = () => new Set(line.low.length || line.steps.length < 3 ? line.steps : lonelySteps(line));
    const width = this.isLarge ? 2 : 1.6;
    const { dash } = look(line);
    const raw = {
      stroke: () => (isSmooth() ? faded(look(line).colour, 0.3) : look(line).colour),
      width,
      dash,
      points: {
        show: true,
        size: this.isLarge ? 6 : 5,
        fill: () => look(line).colour,
        filter: (u) => {
          const shown = lonely();
          return u.data[0].flatMap((step, i) => (shown.has(step) ? [i] : []));
        },
      },
    };
    return [raw, { stroke: () => look(line).colour, width, dash, points: { show: false } }];
  }

  _valueRange() {
    const found = valueExtent(this.lines, this.page.range(), this.page);
    if (this.page.isLog) return found ? [found[0] / 1.3, found[1] * 1.3] : [0.1, 1];
    if (this.data.shape === "rate") return [0, Math.max(1, found?.[1] ?? 1)];
    const [low, high] = found ?? [0, 1];
    if (low === 0 && high === 0) return [0, 1];
    if (this.data.shape === "amount" && low >= 0) return [0, high > 0 ? high * 1.08 : 1];
    const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
    return [low - room, high + room];
  }

  _drawIntervals(u) {
    const { ctx } = u;
    for (const line of this.lines.filter((one) => one.low.length && (!this._isCrowded() || one === this.near))) {
      const known = line.steps.map((step, i) => [step, line.low[i], line.high[i]]).filter(([, low, high]) => low !== null && high !== null);
      const at = (step, value) => [u.valToPos(step, "x", true), u.valToPos(this.page.isLog ? Math.max(value, u.scales.y.min) : value, "y", true)];
      ctx.save();
      inside(u);
      ctx.fillStyle = faded(colours.curves[line.run % NUM_HUES], 0.14);
      ctx.beginPath();
      for (const [step, , high] of known) ctx.lineTo(...at(step, high));
      for (const [step, low] of known.reverse()) ctx.lineTo(...at(step, low));
      ctx.fill();
      // A band of one step has no width.
      ctx.lineWidth = 8 * ratio();
      ctx.strokeStyle = ctx.fillStyle;
      if (known.length === 1) ctx.stroke();
      ctx.restore();
    }
  }

  _drawMarks(u) {
    const { ctx, bbox } = u;
    const [from, to] = this.page.range();
    for (const [step, , stops] of this.data.marks) {
      if (step < from || step > to) continue;
      const [x, size] = [u.valToPos(step, "x", true), 4 * ratio()];
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = stops ? colours.bad : colours.warn;
      ctx.lineWidth = ratio();
      ctx.setLineDash([3 * ratio(), 3 * ratio()]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.moveTo(x - size, bbox.top - size);
      ctx.lineTo(x + size, bbox.top - size);
      ctx.lineTo(x, bbox.top + size);
      ctx.fill();
      ctx.restore();
    }
  }

  // Names at the ends of lines, moved apart where they would lie over each other.
  _drawLabels(u) {
    if (this._isCrowded()) return;
    const { ctx, bbox } = u;
    const height = (this.isLarge ? 15 : 13) * ratio();
    const named = this.lines.filter((line) => line.label && lastPoint(line).value !== null);
    const labels = named.map((line) => ({ line, y: u.valToPos(lastPoint(line).value, "y", true) + height * 0.3 }));
    labels.sort((a, b) => a.y - b.y);
    const lowest = bbox.top + bbox.height - 2 * ratio();
    labels.forEach((label, i) => {
      label.y = Math.max(label.y, i ? labels[i - 1].y + height : bbox.top + height * 0.5);
    });
    for (let i = labels.length - 1; i >= 0; i--) {
      labels[i].y = Math.min(labels[i].y, i + 1 < labels.length ? labels[i + 1].y - height : lowest);
    }
    ctx.save();
    ctx.font = this._labelFont(ratio());
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    const isTold = this._hasParts();
    for (const { line, y } of labels) {
      const value = isTold && this.page.step !== null ? ` ${this._said(this._value(line, this.page.step))}` : "";
      ctx.fillStyle = look(line).colour;
      ctx.fillText(`${shortened(line.label)}${value}`, bbox.left + bbox.width + 6 * ratio(), y);
    }
    ctx.restore();
  }

  _labelFont(scale) {
    return `600 ${(this.isLarge ? 12 : 11) * scale}px ${colours.font}`;
  }

  _tick(value) {
    const lead = value / 10 ** Math.floor(Math.log10(value) + 1e-9);
    return this.page.isLog && ![1, 2, 5].some((digit) => Math.abs(lead - digit) < 1e-6) ? "" : said(value);
  }

  // Several lines of one run: the figure's head has the value of the first only.
  _hasParts() {
    return this.lines.some((line) => line.part > 0);
  }

  _isCrowded() {
    return this.lines.filter((line) => line.part === 0).length > MOST_NAMED;
  }

  // Beside the ends of the lines, for their names and a value.
  _roomForLabels() {
    const labels = this.lines.map((line) => line.label).filter(Boolean);
    if (!labels.length || this._isCrowded()) return ROOM_FOR_A_STEP;
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = this._labelFont(1);
    const room = this._hasParts() ? " 0.0000" : "";
    return Math.ceil(Math.max(...labels.map((label) => pen.measureText(shortened(label) + room).width)) + 8);
  }

  _said(value) {
    return this.data.shape === "rate" ? share(value) : said(value);
  }

  _moved(u) {
    this.page.move(u.cursor.left < 0 ? null : this.page.nearest(u.posToVal(u.cursor.left, "x")), this);
  }

  _pointed(i) {
    const near = i ? this.lines[Math.floor((i - 1) / 2)] : null;
    if (near === this.near) return;
    this.near = near;
    this.say(this.page.step);
  }

  // A click leads to the step under the pointer; one that ends a drag never comes here, and of a
  // double click, which shows all steps, the first one has to wait for the second.
  _leadOn(u) {
    let waiting = null;
    const canPoint = matchMedia("(hover: hover)").matches;
    if (canPoint && this.page.canOpen()) u.over.classList.add("leads-on");
    u.over.addEventListener("click", ({ detail }) => {
      clearTimeout(waiting);
      if (canPoint && detail === 1) waiting = setTimeout(() => this.open(), DOUBLE_CLICK_MS);
    });
  }

  // Where the point under the cursor was measured.
  open() {
    if (this.page.step === null) return;
    const line = this.near ?? this.lines[0];
    this.page.open(pointAt(line, this.page.step).step ?? this.page.step, this.data.name.startsWith("validation/"));
  }

  _selected(u) {
    const { left, width } = u.select;
    if (width < 5) return;
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.page.zoom([left, left + width].map((at) => this.page.nearest(u.posToVal(at, "x"))));
  }

  _fit() {
    if (this.plot && this.holder.clientWidth) {
      this.plot.setSize({ width: this.holder.clientWidth, height: this.holder.clientHeight });
      this.placeCursor(this.page.step);
    }
  }

  // A slider over the steps: arrow keys walk, and what is there is read out.
  _makeFocusable() {
    const { holder } = this;
    const title = this.figure.querySelector("figcaption").firstChild.textContent.trim();
    const named = { role: "slider", tabindex: "0", "aria-label": `${title || this.key}, over steps` };
    for (const [name, value] of Object.entries(named)) holder.setAttribute(name, value);
    holder.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Enter") this.open();
      else if (this.page.key(event.key)) event.preventDefault();
    });
    holder.addEventListener("focus", () => holder.matches(":focus-visible") && this.page.key("focus"));
    holder.addEventListener("blur", () => this.page.move(null));
  }
}

function shortened(label) {
  return label.length > MOST_LETTERS ? `${label.slice(0, MOST_LETTERS - 1)}\u2026` : label;
}

function wholeSteps() {
  return [...Array(9).keys()].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
}

function inside(u) {
  const { left, top, width, height } = u.bbox;
  u.ctx.beginPath();
  u.ctx.rect(left, top, width, height);
  u.ctx.clip();
}
