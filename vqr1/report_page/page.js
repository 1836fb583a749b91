// Draws each chart in its place, as SVG in the page's colours.
"use strict";

const charts = JSON.parse(document.getElementById("charts").textContent);
const options = { renderer: "svg", actions: false, tooltip: { theme: "custom", disableDefaultStyle: true } };

for (const [id, chart] of Object.entries(charts)) {
  const place = document.getElementById(id);
  // The description stands for the whole drawing, whose marks are hidden from screen readers.
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", chart.description);
  window.vegaEmbed(place, chart, options)
    .then(() => place.setAttribute("data-drawn", ""))
    .catch((error) => { place.textContent = `This chart cannot be drawn: ${error.message}`; });
}
