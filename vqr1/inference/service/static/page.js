// Scores each image as it is added (/score), and ranks them all (/compare).
// Text of the model and names of files are only ever set as text, never as markup.
"use strict";

const AT_ONCE = 4; // requests under way; the service batches them
const byId = (id) => document.getElementById(id);
const items = [];
let underWay = 0;
let needsReference = false; // the prompt compares each image with one
let most = Infinity; // images of a request, the reference included
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
  image.alt = file.name;
  image.src = URL.createObjectURL(file);
  const item = {
    file, card, image, state: "waiting",
    score: element("div", "score", "…"),
    place: element("div", "place"),
    text: element("p", "text"),
  };
  card.append(image, element("div", "name", file.name), item.score, item.place, item.text);
  byId("cards").append(card);
  items.push(item);
}

function showScore(item, result) {
  item.state = result.valid ? "scored" : "invalid";
  item.value = result.score;
  item.score.textContent = result.valid ? result.score.toFixed(2) : "no score in the answer";
  if (result.valid && result.std !== null) {
    item.score.append(element("small", "", ` ± ${result.std.toFixed(2)}`));
  }
  item.text.textContent = result.text ?? "";
}

function showProblem(item, error) {
  item.state = error.status === 401 ? "denied" : "refused";
  item.score.textContent = "";
  item.text.textContent = error.message;
  item.text.classList.add("problem");
}

function ask(states) { // again
  for (const item of items) {
    if (!states.includes(item.state)) continue;
    item.state = "waiting";
    item.score.textContent = "…";
    item.text.textContent = "";
    item.text.classList.remove("problem");
  }
  work();
}

async function work() {
  while (underWay < AT_ONCE && !(needsReference && !reference())) {
    const item = items.find((one) => one.state === "waiting");
    if (!item) break;
    item.state = "asked";
    underWay += 1;
    send("/score", [item.file])
      .then((answer) => showScore(item, answer.results[0]))
      .catch((error) => showProblem(item, error))
      .finally(() => { underWay -= 1; show(); work(); });
  }
  show();
}

function show() {
  const done = items.filter((one) => !["waiting", "asked"].includes(one.state)).length;
  const scored = items.filter((one) => one.state === "scored").length;
  byId("clear").disabled = items.length === 0;
  byId("rank").disabled = scored < 2 || done < items.length;
  byId("status").textContent = items.length ? `${done} of ${items.length} done` : "";
  if (needsReference && !reference()) byId("status").textContent = "choose the reference";
}

async function rank() {
  const scored = items.filter((one) => one.state === "scored");
  if (scored.length + needsReference > most) return sortByScore(scored);
  byId("rank").disabled = true;
  byId("status").textContent = "ranking …";
  try {
    const answer = await send("/compare", scored.map((one) => one.file));
    answer.ranking.forEach((image, row) => {
      const item = scored[image.position];
      const next = answer.ranking[row + 1];
      const range = image.rank_low === image.rank_high
        ? "" : ` (may be ${image.rank_low} to ${image.rank_high})`;
      const better = next
        ? `; better than the next with probability ${answer.probabilities[row][row + 1].toFixed(2)}`
        : "";
      item.place.textContent = `Rank ${image.rank} of ${scored.length}${range}${better}`;
      byId("cards").append(item.card);
    });
    for (const item of items) if (item.state !== "scored") byId("cards").append(item.card);
    byId("status").textContent = "ranked, best first";
  } catch (error) {
    byId("status").textContent = error.message;
  }
  byId("rank").disabled = false;
}

function sortByScore(scored) {
  scored.sort((one, other) => other.value - one.value);
  for (const item of scored) {
    item.place.textContent = "";
    byId("cards").append(item.card);
  }
  byId("status").textContent = `sorted by score, best first; ranks and probabilities are of at ` +
    `most ${most - needsReference} images`;
}

function clear() {
  for (const item of items) URL.revokeObjectURL(item.image.src);
  items.length = 0;
  byId("cards").replaceChildren();
  show();
}

function addAll(files) {
  for (const file of files) add(file);
  work();
}

byId("files").addEventListener("change", (event) => {
  addAll(event.target.files);
  event.target.value = "";
});
byId("reference").addEventListener("change", () => {
  ask(["scored", "invalid", "refused", "denied", "waiting"]);
});
byId("key").addEventListener("change", () => ask(["denied"]));
byId("rank").addEventListener("click", rank);
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
  addAll(event.dataTransfer.files);
});
fetch("/health").then((response) => response.json()).then((health) => {
  byId("model").textContent =
    `model ${health.model}, prompt ${health.prompt}, mode ${health.mode}`;
  byId("key-row").hidden = !health.needs_key;
  needsReference = health.images > 1;
  most = health.max_images ?? Infinity;
  byId("reference-row").hidden = !needsReference;
  show();
});
