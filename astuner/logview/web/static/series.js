// Arithmetic on curves; nothing here knows of the page.

// An exponential mean with the bias of its start taken out, as TensorBoard draws it. `weight` is that
// of what came before, from 0 to 1. What is null stays a gap.
export function smoothed(values, weight) {
  let [mean, kept] = [0, 1];
  return values.map((value) => {
    if (value === null) return null;
    mean = mean * weight + value * (1 - weight);
    kept *= weight;
    return mean / (1 - kept);
  });
}

const NOWHERE = { step: null, value: null };

// What a line has at a step, or at the last one before it that it knows of; nothing behind its end.
export function pointAt(line, step) {
  let [low, high] = [0, line.steps.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (line.steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  const isBehind = low === line.steps.length && line.steps[low - 1] !== step;
  return low === 0 || isBehind ? NOWHERE : { step: line.steps[low - 1], value: line.values[low - 1] };
}

// The newest value that is known.
export function lastPoint(line) {
  for (let i = line.values.length - 1; i >= 0; i--) {
    if (line.values[i] !== null) return { step: line.steps[i], value: line.values[i] };
  }
  return NOWHERE;
}

// Steps at which a value stands between gaps, so that no line shows it.
export function lonelySteps(line) {
  const { steps, values } = line;
  const alone = (i) => values[i] !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null;
  return steps.filter((_, i) => alone(i));
}

// The lowest and highest step of all lines; null where there is none.
export function extent(lines) {
  let [low, high] = [Infinity, -Infinity];
  for (const { steps } of lines) {
    if (!steps.length) continue;
    low = Math.min(low, steps[0]);
    high = Math.max(high, steps[steps.length - 1]);
  }
  return low <= high ? [low, high] : null;
}

// What the axis of values must hold between two steps, intervals included. Without outliers: what lies
// no further from the middle half of the values than three times its width.
export function valueExtent(lines, [from, to], { isLog, hasOutliers }) {
  const found = [];
  for (const line of lines) {
    for (const values of [line.values, line.low, line.high]) {
      for (let i = 0; i < values.length; i++) {
        const value = values[i];
        if (value === null || line.steps[i] < from || line.steps[i] > to || (isLog && value <= 0)) continue;
        found.push(value);
      }
    }
  }
  if (!found.length) return null;
  found.sort((a, b) => a - b);
  const [low, high] = hasOutliers ? [-Infinity, Infinity] : fences(found);
  return [found.find((value) => value >= low), found.findLast((value) => value <= high)];
}

function fences(sorted) {
  const quarter = Math.floor(sorted.length / 4);
  const [first, third] = [sorted[quarter], sorted[sorted.length - 1 - quarter]];
  return [first - 3 * (third - first), third + 3 * (third - first)];
}

// A half goes to the even digit, as in what the server writes: else a number changes with its script.
function rounded(value, places) {
  const scaled = value * 10 ** places;
  const isHalf = Number.isInteger(value * 2 ** (places + 1)) && Math.abs(scaled % 1) === 0.5;
  return (isHalf ? (2 * Math.round(scaled / 2)) / 10 ** places : value).toFixed(places);
}

function inWords(value, digits) {
  const places = digits - 1 - Math.floor(Math.log10(Math.abs(value)));
  return Number(rounded(value, places)).toString().replace("-", "\u2212");
}

// Of one, with two digits, three where they tell more.
export function share(value) {
  if (value === null || value === undefined) return "\u2013";
  const isNearEnd = (value > 0.99 && value < 0.9995) || (value >= 0.0005 && value < 0.01);
  return rounded(value, isNearEnd ? 3 : 2);
}

// With three significant digits, as the pages say numbers.
export function said(value, digits = 3) {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 10 ** digits) {
    if (size >= 1e15) return value.toExponential(digits - 1);
    return rounded(value, 0).replace("-", "\u2212").replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
  }
  return size < 1e-4 ? value.toExponential(1).replace("-", "\u2212") : inWords(value, digits);
}
