// Scores each image as it is added (/score), ranks them all, and compares two (/compare).
// Text of the model and names of files are only ever set as text, never as markup.
"use strict";

const AT_ONCE = 4; // requests under way; the service batches them
const byId = (id) => document.getElementById(id);
const items = [];
let underWay = 0;
let needsReference = false; // the prompt compares each image with one
let most = Infinity; // images of a request, the reference included
let scale = [1, 5];
let tested = null;
let chosen = []; // at most two images, side by side
const reference = () => byId("reference").files[0];

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function send(path, files) {
  const form = new FormData();
  for (const file of files) form.append("images", file, file.name);
  if (needsReference) form.append("references", reference(), reference().name);
  const key = byId("key").value.trim();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  for (;;) {
    const response = await fetch(path, { method: "POST", body: form, headers });
    if (response.status === 429) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((resume) => setTimeout(resume, 1000 * seconds));
      continue;
    }
    const answer = await response.json();
    if (!response.ok) throw Object.assign(new Error(answer.detail), { status: response.status });
    return answer;
  }
}

function add(file) {
  const card = document.createElement("li");
  const image = element("img", "");
  const name = file.webkitRelativePath || file.name;
  image.alt = "";
  image.loading = "lazy";
  image.decoding = "async";
  const url = URL.createObjectURL(file);
  image.src = url;
  // Of a file that is no image an empty frame.
  image.addEventListener("error", () => image.removeAttribute("src"));
  const item = {
    file, name, card, image, url, state: "waiting", added: items.length,
    score: element("div", "score", "…"),
    among: element("div", "among"),
    place: element("div", "place"),
    text: element("p", "text"),
    answer: element("details", "answer"),
    drawing: element("div", "drawing"),
    box: element("input", ""),
  };
  item.answer.hidden = true;
  const middle = element("div", "middle");
  middle.append(element("div", "name", name), item.score, item.among, item.place, item.text,
    item.answer);
  const side = element("div", "side");
  const label = element("label", "choose");
  item.box.type = "checkbox";
  item.box.disabled = true;
  item.box.setAttribute("aria-label", `Compare ${name} side by side`);
  item.box.addEventListener("change", () => choose(item));
  label.append(item.box, document.createTextNode("Compare"));
  side.append(item.drawing, label);
  card.append(image, middle, side);
  byId("cards").append(card);
  items.push(item);
}

function blank(item) {
  item.value = item.std = item.rank = undefined;
  item.reasoning = "";
  item.place.textContent = "";
  item.score.textContent = "";
  item.among.textContent = "";
  item.text.textContent = "";
  item.text.classList.remove("problem");
  item.answer.replaceChildren();
  item.answer.hidden = true;
  item.drawing.replaceChildren();
  item.box.disabled = true;
}

function showScore(item, result) {
  blank(item);
  item.state = result.valid ? "scored" : "invalid";
  item.value = result.score;
  item.std = result.std;
  item.reasoning = result.reasoning ?? "";
  item.score.textContent = result.valid ? result.score.toFixed(2) : "no score in the answer";
  if (result.valid) {
    if (result.std !== null) {
      item.score.append(element("small", "", ` ± ${result.std.toFixed(2)}`));
    }
    if (tested) item.among.textContent = placeInWords(tested, result.score);
    item.drawing.append(drawScore(result.score, result.std, scale, tested));
    item.box.disabled = false;
  }
  // The reasoning alone, and the answer as the model wrote it folded away; else what there is.
  item.text.textContent = result.reasoning ?? result.text ?? "";
  if (result.reasoning) {
    item.answer.hidden = false;
    item.answer.append(element("summary", "", "Whole answer"), element("pre", "", result.text));
  }
}

function showProblem(item, error) {
  blank(item);
  item.state = error.status === 401 ? "denied" : "refused";
  item.text.textContent = error.message;
  item.text.classList.add("problem");
}

function ask(states) { // again
  for (const item of items) {
    if (!states.includes(item.state)) continue;
    item.state = "waiting";
    blank(item);
    item.score.textContent = "…";
  }
  work();
}

async function work() {
  while (underWay < AT_ONCE && !(needsReference && !reference())) {
    const item = items.find((one) => one.state === "waiting");
    if (!item) break;
    item.state = "asked";
    underWay += 1;
    const asked = reference();
    const unlessOther = (shown) => (value) => { // asked again where another reference was chosen
      if (reference() === asked) shown(value); else item.state = "waiting";
    };
    send("/score", [item.file])
      .then(unlessOther((answer) => showScore(item, answer.results[0])))
      .catch(unlessOther((error) => showProblem(item, error)))
      .finally(() => { underWay -= 1; show(); work(); });
  }
  show();
}

function show() {
  const done = items.filter((one) => !["waiting", "asked"].includes(one.state)).length;
  const scored = items.filter((one) => one.state === "scored").length;
  byId("clear").disabled = items.length === 0;
  byId("download").disabled = done === 0 || done < items.length;
  byId("rank").disabled = scored < 2 || done < items.length;
  byId("status").textContent = items.length ? `${done} of ${items.length} done` : "";
  if (needsReference && !reference()) byId("status").textContent = "choose the reference";
  if (items.length && done === items.length) arrange();
}

const known = (value) => (value === undefined || value === null ? -Infinity : value);
const ORDERS = {
  added: (one, other) => one.added - other.added,
  best: (one, other) => known(other.value) - known(one.value),
  worst: (one, other) => (one.value ?? Infinity) - (other.value ?? Infinity),
  unsure: (one, other) => known(other.std) - known(one.std),
  name: (one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }),
};

function arrange() { // by the chosen order; equal ones, and -Infinity twice, stay as added
  const rule = ORDERS[byId("order").value];
  const ordered = [...items].sort((one, other) => rule(one, other) || one.added - other.added);
  byId("cards").append(...ordered.map((item) => item.card));
}

function takeOrder(ordered) { // of a ranking, whatever order is chosen
  byId("order").value = "best";
  byId("cards").append(...ordered.map((item) => item.card));
}

async function rank() {
  const scored = items.filter((one) => one.state === "scored");
  const others = items.filter((one) => one.state !== "scored");
  if (scored.length + needsReference > most) {
    for (const item of scored) { item.place.textContent = ""; item.rank = undefined; }
    takeOrder([...scored.sort(ORDERS.best), ...others]);
    byId("status").textContent = "sorted by score, best first; ranks and probabilities are of at " +
      `most ${most - needsReference} images`;
    return;
  }
  byId("rank").disabled = true;
  byId("status").textContent = "ranking …";
  const asked = reference();
  try {
    const answer = await send("/compare", scored.map((one) => one.file));
    if (reference() !== asked) return; // another one was chosen since
    const ranked = answer.ranking.map((image, row) => {
      const item = scored[image.position];
      const next = answer.ranking[row + 1];
      const range = image.rank_low === image.rank_high
        ? "" : ` (may be ${image.rank_low} to ${image.rank_high})`;
      const better = next
        ? `; better than the next with probability ${answer.probabilities[row][row + 1].toFixed(2)}`
        : "";
      item.rank = image.rank;
      item.place.textContent = `Rank ${image.rank} of ${scored.length}${range}${better}`;
      return item;
    });
    takeOrder([...ranked, ...others]);
    byId("status").textContent = "ranked, best first";
  } catch (error) {
    byId("status").textContent = error.message;
  }
  byId("rank").disabled = false;
}

function choose(item) { // the third one replaces the first
  chosen = chosen.filter((one) => one !== item);
  if (item.box.checked) chosen.push(item);
  if (chosen.length > 2) chosen.shift().box.checked = false;
  byId("pair").hidden = chosen.length < 2;
  if (chosen.length === 2) compareTwo();
  byId("status").textContent = chosen.length === 1 ? "choose a second image to compare" : "";
}

async function compareTwo() {
  const two = [...chosen];
  byId("sides").replaceChildren(...two.map((item) => {
    const side = element("div", "");
    const image = element("img", "");
    image.src = item.url;
    image.alt = item.name;
    const caption = element("div", "");
    caption.append(element("div", "name", item.name),
      element("div", "score", item.value.toFixed(2)), drawScore(item.value, item.std, scale, tested));
    side.append(image, caption);
    return side;
  }));
  byId("odds").hidden = true;
  byId("verdict").textContent = "comparing …";
  byId("pair").focus();
  byId("pair").scrollIntoView({ block: "nearest" });
  try {
    const answer = await send("/compare", two.map((one) => one.file));
    if (two.some((item, place) => chosen[place] !== item)) return; // chosen anew since
    const [better, other] = answer.ranking.map((image) => two[image.position]);
    const probability = answer.probabilities[0][1];
    byId("verdict").textContent =
      `${better.name} is better than ${other.name} with probability ${probability.toFixed(2)}`;
    const left = better === two[0] ? probability : 1 - probability;
    const bar = shape("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none",
      "aria-hidden": "true" });
    bar.append(shape("rect", { class: "second", x: 0, y: 0, width: 100, height: 4 }),
      shape("rect", { class: "first", x: 0, y: 0, width: 100 * left, height: 4 }));
    byId("odds").replaceChildren(bar);
    byId("odds").hidden = false;
  } catch (error) {
    byId("verdict").textContent = error.message;
  }
}

function closePair() {
  const last = chosen[chosen.length - 1];
  for (const item of chosen) item.box.checked = false;
  chosen = [];
  byId("pair").hidden = true;
  byId("status").textContent = "";
  last?.box.focus();
}

// A cell of text that a spreadsheet would take for a formula begins with an apostrophe.
function cell(value) {
  if (typeof value === "number") return String(value);
  const text = String(value ?? "");
  return `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

function download() {
  const heads = ["image", "score", "std", "share_of_test_images_below", "rank", "state", "text"];
  const rows = items.map((item) => [
    item.name, item.value, item.std,
    tested && item.state === "scored" ? shareBelow(tested.quantiles, item.value) : "",
    item.rank, item.state, item.text.textContent,
  ]);
  const lines = [heads, ...rows].map((row) => row.map(cell).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
  link.download = "scores.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function clear() {
  closePair();
  for (const item of items) URL.revokeObjectURL(item.url);
  items.length = 0;
  byId("cards").replaceChildren();
  show();
}

function addAll(files) {
  for (const file of files) add(file);
  work();
}

// Files of a folder that are no images by their type are not asked about.
const ofFolder = (files) => [...files].filter((file) => file.type.startsWith("image/"));

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((take, fail) => entry.file(take, fail))];
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((take, fail) => reader.readEntries(take, fail));
    if (!some.length) return found;
    for (const one of some) found.push(...await filesOf(one));
  }
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return addAll(transfer.files);
  for (const entry of entries) addAll(ofFolder(await filesOf(entry)));
}

function describeService(health) {
  byId("model").textContent =
    `model ${health.model}, prompt ${health.prompt}, mode ${health.mode}`;
  byId("key-row").hidden = !health.needs_key;
  needsReference = health.images > 1;
  most = health.max_images ?? Infinity;
  scale = health.scale ?? scale;
  tested = health.tested ?? null;
  byId("reference-row").hidden = !needsReference;
  byId("scale").textContent = `Scores run from ${scale[0]} (worst) to ${scale[1]} (best); ± is the ` +
    "model's own standard deviation.";
  const rank = tested && tested.srcc !== null
    ? `, with a rank correlation with people's ratings of ${tested.srcc.toFixed(2)}` : "";
  byId("meaning").textContent = tested
    ? `What a score of this model means: it was tested on ${tested.images} images ` +
      `(${tested.datasets.join(", ")})${rank}. Each score is shown with how many of them scored lower.`
    : "Where a score of this model lies among photographs is unknown: the model comes without the " +
      "scores of its test images. Compare scores of this model with each other only.";
  show();
}

byId("files").addEventListener("change", (event) => {
  addAll(event.target.files);
  event.target.value = "";
});
byId("folder").addEventListener("change", (event) => {
  addAll(ofFolder(event.target.files));
  event.target.value = "";
});
byId("reference").addEventListener("change", () => {
  closePair();
  ask(["scored", "invalid", "refused", "denied", "waiting"]);
});
byId("key").addEventListener("change", () => ask(["denied"]));
byId("rank").addEventListener("click", rank);
byId("order").addEventListener("change", arrange);
byId("view").addEventListener("click", () => {
  const on = byId("cards").classList.toggle("grid");
  byId("view").setAttribute("aria-pressed", String(on));
});
byId("download").addEventListener("click", download);
byId("pair-close").addEventListener("click", closePair);
byId("pair").addEventListener("keydown", (event) => { if (event.key === "Escape") closePair(); });
byId("clear").addEventListener("click", clear);
const drop = byId("drop");
for (const type of ["dragenter", "dragover"]) {
  drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const type of ["dragleave", "drop"]) {
  drop.addEventListener(type, () => drop.classList.remove("over"));
}
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  dropped(event.dataTransfer);
});
fetch("/health").then((response) => response.json()).then(describeService);
