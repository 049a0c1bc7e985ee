// The charts of a page: what they share, the tools above them, and new data of a run that goes on.
// What is chosen stands in the address, so that a link shows the same.

import { Chart, colours, readColours } from "./chart.js";
import { savePicture } from "./picture.js";
import { extent } from "./series.js";

const charts = new Map();
let shown = { runs: [], charts: {} };

const page = {
  smoothing: 0,
  isLog: false,
  hasOutliers: true,
  zoomed: null,
  step: null,
  steps: [0],
  // What stands on the axis, as it is said beside a value.
  counts: document.body.dataset.counts ?? "step",

  range() {
    return this.zoomed ?? [this.steps[0], this.steps[this.steps.length - 1]];
  },

  // The step that any chart has a value at, nearest to a place on the axis.
  nearest(place) {
    const { steps } = this;
    let [low, high] = [0, steps.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < place) low = middle + 1;
      else high = middle;
    }
    return low > 0 && place - steps[low - 1] < steps[low] - place ? steps[low - 1] : steps[low];
  },

  move(step, source = null) {
    if (step === this.step) return;
    this.step = step;
    for (const chart of charts.values()) {
      if (chart !== source) chart.placeCursor(step);
      chart.say(step);
    }
  },

  zoom(range) {
    this.zoomed = range && range[1] > range[0] ? range : null;
    for (const chart of charts.values()) chart.rescale();
    settled();
  },

  canOpen() {
    return "steps" in document.body.dataset;
  },

  // The page of a step.
  open(step, isValidation) {
    if (this.canOpen()) location.assign(`${document.body.dataset.steps}/${step}${isValidation ? "?kind=validation" : ""}`);
  },

  // What a key does in a chart that has the focus; whether it does anything.
  key(key) {
    const [from, to] = this.range();
    const seen = this.steps.filter((step) => step >= from && step <= to);
    const at = this.step === null ? seen.length - 1 : Math.max(0, seen.indexOf(this.step));
    const walk = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity, focus: 0 };
    if (key in walk) this.move(seen[Math.min(seen.length - 1, Math.max(0, at + walk[key]))] ?? null);
    else if (key === "+") this.closer(seen, at, 4);
    else if (key === "-" || (key === "Escape" && this.zoomed)) this.zoom(null);
    else if (key === "Escape") this.move(null);
    else return false;
    return true;
  },

  closer(seen, at, parts) {
    const reach = Math.max(1, Math.floor(seen.length / parts));
    this.zoom([seen[Math.max(0, at - reach)], seen[Math.min(seen.length - 1, at + reach)]]);
  },
};

function read() {
  shown = JSON.parse(document.getElementById("charts").textContent);
  const steps = new Set();
  for (const { lines } of Object.values(shown.charts)) for (const line of lines) for (const step of line.steps) steps.add(step);
  page.steps = steps.size ? [...steps].sort((a, b) => a - b) : [0];
}

function draw() {
  addNewPanels();
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const data = shown.charts[figure.dataset.chart];
    if (!data || !extent(data.lines)) continue;
    figure.hidden = false;
    figure.closest(".alone")?.classList.remove("alone");
    if (!charts.has(figure.dataset.chart)) charts.set(figure.dataset.chart, new Chart(figure, page));
    charts.get(figure.dataset.chart).show(data);
  }
  for (const tools of document.querySelectorAll("[data-tools]")) tools.hidden = charts.size === 0;
}

// Charts that a run has only now, at their places; those that are there stay what they are.
function addNewPanels() {
  const grid = document.getElementById("panels");
  const fresh = document.getElementById("panel-shells");
  if (!grid || !fresh) return;
  let next = null;
  for (const shell of [...fresh.content.querySelectorAll("[data-chart]")].reverse()) {
    const there = grid.querySelector(`[data-chart="${shell.dataset.chart}"]`);
    next = there ?? grid.insertBefore(document.importNode(shell, true), next);
  }
}

function settled() {
  const address = new URL(location.href);
  const set = (name, value) => (value ? address.searchParams.set(name, value) : address.searchParams.delete(name));
  set("smooth", page.smoothing ? String(page.smoothing) : "");
  set("log", page.isLog ? "1" : "");
  set("outliers", page.hasOutliers ? "" : "0");
  set("steps", page.zoomed ? page.zoomed.join("-") : "");
  if (address.href !== location.href) history.replaceState(null, "", address);
  for (const tool of document.querySelectorAll("[data-tool]")) showTool(tool);
  for (const said of document.querySelectorAll("[data-smoothing]")) said.textContent = page.smoothing.toFixed(2);
}

function showTool(tool) {
  if (tool.dataset.tool === "smoothing") tool.value = page.smoothing;
  if (tool.dataset.tool === "log") tool.setAttribute("aria-pressed", page.isLog);
  if (tool.dataset.tool === "outliers") tool.setAttribute("aria-pressed", !page.hasOutliers);
  if (tool.dataset.tool === "whole") tool.disabled = page.zoomed === null;
}

function chosen() {
  const asked = new URL(location.href).searchParams;
  const smoothing = Number(asked.get("smooth"));
  page.smoothing = smoothing > 0 && smoothing < 1 ? smoothing : 0;
  page.isLog = asked.get("log") === "1";
  page.hasOutliers = asked.get("outliers") !== "0";
  const range = /^(\d+)-(\d+)$/.exec(asked.get("steps") ?? "");
  if (range && Number(range[1]) < Number(range[2])) page.zoomed = [Number(range[1]), Number(range[2])];
}

function redrawAll() {
  for (const chart of charts.values()) chart.show(chart.data);
  settled();
}

const does = {
  log: () => {
    page.isLog = !page.isLog;
    redrawAll();
  },
  outliers: () => {
    page.hasOutliers = !page.hasOutliers;
    redrawAll();
  },
  whole: () => page.zoom(null),
  picture: (tool) => savePicture(charts.get(tool.dataset.of), tool.dataset.name ?? fileName(charts.get(tool.dataset.of)), shown.runs),
};

function fileName(chart) {
  return `${[...shown.runs.slice(0, 1), chart.data.name].join("-").replace(/[^\w.-]+/g, "-")}.png`;
}

document.addEventListener("click", (event) => {
  const tool = event.target.closest("[data-tool]");
  if (tool) does[tool.dataset.tool]?.(tool);
});
document.addEventListener("input", (event) => {
  if (event.target.dataset.tool !== "smoothing") return;
  page.smoothing = Number(event.target.value);
  redrawAll();
});
document.addEventListener("astuner:fresh", () => {
  read();
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColours();
  for (const chart of charts.values()) chart.redraw();
});

readColours();
chosen();
read();
draw();
settled();
export { charts, colours, page };
