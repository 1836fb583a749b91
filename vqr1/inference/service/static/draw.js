// Draws a score with its distribution as SVG, and puts into words where it lies among test images.
"use strict";

const WIDTH = 260, HEIGHT = 58, BASE = 38, MARGIN = 8;

function shape(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Share of the test images that scored lower, from 101 quantiles; between two of them by a line.
function shareBelow(quantiles, score) {
  const last = quantiles.length - 1;
  if (score <= quantiles[0]) return 0;
  if (score >= quantiles[last]) return 1;
  const next = quantiles.findIndex((value) => value > score);
  const low = quantiles[next - 1];
  return (next - 1 + (score - low) / (quantiles[next] - low)) / last;
}

function placeInWords(tested, score) {
  const share = shareBelow(tested.quantiles, score);
  const sets = tested.datasets.join(", ");
  return `higher than ${Math.round(100 * share)} % of the ${tested.images} test images (${sets})`;
}

function drawScore(score, std, scale, tested) {
  const [low, high] = scale;
  const from = Math.min(low, score), to = Math.max(high, score);
  const x = (value) => MARGIN + (value - from) / (to - from) * (WIDTH - 2 * MARGIN);
  const deviation = std === null ? "" : `, standard deviation ${std.toFixed(2)}`;
  const drawing = shape("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "density", role: "img",
    "aria-label": `Score ${score.toFixed(2)} on a scale of ${low} to ${high}${deviation}`,
  });
  drawing.append(shape("line", { class: "axis", x1: x(from), x2: x(to), y1: BASE, y2: BASE }));
  if (tested) {
    const [tenth, ninetieth] = [tested.quantiles[10], tested.quantiles[90]];
    drawing.append(shape("line", {
      class: "tested", x1: x(Math.max(from, tenth)), x2: x(Math.min(to, ninetieth)),
      y1: BASE + 5, y2: BASE + 5,
    }));
  }
  if (std) {
    const points = [];
    for (let step = 0; step <= 80; step += 1) {
      const value = from + (to - from) * step / 80;
      const density = Math.exp(-0.5 * ((value - score) / std) ** 2);
      points.push(`${x(value).toFixed(1)},${(BASE - 30 * density).toFixed(1)}`);
    }
    const around = [`${x(from)},${BASE}`, ...points, `${x(to)},${BASE}`].join(" ");
    drawing.append(shape("polygon", { class: "curve", points: around }));
  }
  drawing.append(shape("line", { class: "mark", x1: x(score), x2: x(score), y1: 5, y2: BASE }));
  for (const [value, anchor] of [[low, "start"], [high, "end"]]) {
    const at = { class: "tick", x: x(value), y: HEIGHT - 3, "text-anchor": anchor };
    drawing.append(shape("text", at, String(value)));
  }
  return drawing;
}
