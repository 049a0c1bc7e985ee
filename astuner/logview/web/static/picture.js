// A chart as a PNG file, with its title and the run it is of.

import { colours } from "./chart.js";

export async function savePicture(chart, name, runs) {
  const plot = chart.plot.ctx.canvas;
  const scale = window.devicePixelRatio || 1;
  const [edge, head] = [16 * scale, 58 * scale];
  const canvas = document.createElement("canvas");
  canvas.width = plot.width + 2 * edge;
  canvas.height = plot.height + head + edge;
  const pen = canvas.getContext("2d");
  pen.fillStyle = colours.paper;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = colours.ink;
  pen.font = `600 ${15 * scale}px ${colours.font}`;
  const unit = chart.data.unit ? `, ${chart.data.unit}` : "";
  pen.fillText(`${chart.data.title}${unit}`, edge, edge + 12 * scale);
  pen.fillStyle = colours.soft;
  pen.font = `${12 * scale}px ${colours.font}`;
  pen.fillText(`${chart.figure.dataset.run ?? runs.join(", ")} · ${chart.data.name} over steps`, edge, edge + 30 * scale);
  pen.drawImage(plot, edge, head);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
