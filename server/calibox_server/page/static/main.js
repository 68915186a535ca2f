// The page: what it knows, what it asks the server for, and what it shows.

import { detect, fetchExample, listModels, mediaType, Refusal } from "./api.js";
import { listen, settingsAt, settingsOf, showAbout, showModels, showPoints, showSettings } from "./controls.js";
import { byId, debounced, element, show } from "./dom.js";
import { boxAt, colourOf, draw, tagOf } from "./drawing.js";
import { listenForPictures } from "./pictures.js";
import { difference, matchBoxes, objectsOf } from "./ranking.js";
import { curlLines, parametersOf, pythonLines, queryOf } from "./requests.js";
import { light, rove, showBoxes, showComparison } from "./table.js";

const PAUSE_MS = 120; // a slider that moves asks when it rests, which feels immediate
const COMPARED = ["classification", "combined", "localization"];
const NARROW_PX = 480; // below it, three scores on each box hide the picture
const TITLES = { classification: "By classification", combined: "By the combined score", localization: "By localization" };

const page = {
  models: [],
  model: null,
  settings: null,
  ranking: "combined", // what is asked for; or "classification", "localization", "compare"
  view: "combined", // what is shown: the ranking of the answers, while others are on their way
  picture: null, // {blob, name, saved, bitmap}
  answers: null, // Map from ranking to answer
  objects: [],
  lit: -1, // index into objects
  pinned: -1,
  asking: null, // AbortController of the running requests
};

const rankingsOf = (mode) => (mode === "compare" ? COMPARED : [mode]);
const mainOf = (mode) => (mode === "compare" ? "combined" : mode);
const keyGiven = () => byId("key").value.trim();

// Asking

async function ask() {
  page.asking?.abort();
  if (!page.model || !page.picture) return;
  const asking = (page.asking = new AbortController());
  const { blob } = page.picture;
  const mode = page.ranking;
  const rankings = rankingsOf(mode);
  byId("panels").setAttribute("aria-busy", "true");
  try {
    const answers = await Promise.all(
      rankings.map((ranking) => detect(blob, queryOf(parametersNow(ranking)), keyGiven(), asking.signal)),
    );
    if (asking === page.asking) take(mode, new Map(rankings.map((ranking, i) => [ranking, answers[i]])));
  } catch (error) {
    if (asking === page.asking) refuse(error);
  } finally {
    if (asking === page.asking) byId("panels").removeAttribute("aria-busy");
  }
}

const askSoon = debounced(ask, PAUSE_MS);
const parametersNow = (ranking) => parametersOf(page.model, page.settings, ranking);

function take(mode, answers) {
  const before = page.objects[page.pinned];
  page.view = mode;
  page.answers = answers;
  const results = [...answers].map(([ranking, { detections }]) => [ranking, detections]);
  results.sort(([a], [b]) => (b === "combined") - (a === "combined")); // its order is the table's
  page.objects = objectsOf(results);
  page.pinned = before ? matchBoxes([before], page.objects).indexOf(0) : -1;
  page.lit = page.pinned;
  report(null);
  render();
}

function refuse(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) byId("access").open = true;
  forget();
  report(error);
  render();
}

function forget() {
  page.view = page.ranking;
  page.answers = null;
  page.objects = [];
  page.lit = page.pinned = -1;
}

function report(error) {
  const again = element("button", { type: "button", onclick: start }, "Try again");
  const code = error?.code ? [element("code", {}, error.code)] : [];
  byId("problem").replaceChildren(...(error ? [element("span", {}, error.message), ...code, again] : []));
  if (error) byId("status").textContent = "";
}

// Beginning

async function start() {
  if (page.model) return ask();
  try {
    const models = await listModels(keyGiven());
    const ready = models.filter(({ state }) => state === "ready");
    if (!ready.length) throw new Refusal("No model is ready to answer; the server's log says why.");
    page.models = models;
    report(null);
    choose(ready.find((model) => model.default) ?? ready[0]);
  } catch (error) {
    refuse(error);
  }
}

function choose(model) {
  page.model = model;
  showModels(page.models, model);
  showAbout(model);
  showPoints(model);
  offerExample(model);
  useOwnSettings();
}

function useOwnSettings() {
  const { model } = page;
  page.settings = settingsOf(model);
  showSettings(model, page.settings);
  if (["classification", "localization"].includes(model.fusion.name)) rankBy(model.fusion.name);
  renderRequest();
  ask();
}

async function offerExample(model) {
  const buttons = [byId("example"), byId("sample")];
  for (const button of buttons) show(button, false);
  if (!model.example) return;
  const example = await fetchExample(model, keyGiven()).catch(() => null);
  if (!example || model !== page.model) return;
  byId("sample-picture").src = URL.createObjectURL(example.blob);
  byId("sample-name").textContent = `Look at ${example.name} of ${model.name}`;
  for (const button of buttons) {
    button.onclick = () => open({ ...example, saved: false });
    show(button, true);
  }
}

async function open(picture) {
  const bitmap = await createImageBitmap(picture.blob).catch(() => null);
  page.picture?.bitmap?.close();
  if (page.picture?.address) URL.revokeObjectURL(page.picture.address);
  page.picture = { ...picture, bitmap };
  forget();
  report(null);
  render();
  await ask();
}

// Showing

function render() {
  const { answers, picture } = page;
  show(byId("empty"), !picture);
  show(byId("legend"), Boolean(answers));
  show(byId("panels"), Boolean(picture));
  byId("legend").querySelector(".marks").hidden = page.view !== "compare";
  if (picture) renderPanels();
  if (page.view === "compare") showComparison(page.objects, answers ? COMPARED : [], page.pinned);
  else showBoxes(page.objects.filter(({ seen }) => seen[page.view]), page.view, page.pinned);
  light(page.lit);
  byId("table-hint").textContent = hint();
  renderRequest();
  renderTiming();
  if (answers) byId("status").textContent = summary();
}

function summary() {
  const { detections } = page.answers.get(mainOf(page.view));
  const many = `${detections.length} ${detections.length === 1 ? "box" : "boxes"}`;
  const differences = rankingsOf(page.view).filter((ranking) => ranking !== mainOf(page.view));
  const others = differences.map((ranking) => `; ${TITLES[ranking].toLowerCase()} ${contrast(ranking)}`).join("");
  return `${many} in ${page.picture.name} ${TITLES[mainOf(page.view)].toLowerCase()}${others}`;
}

function hint() {
  if (!page.answers) return "They are listed here as soon as there is a picture.";
  if (!page.objects.length) return "No box reaches the score threshold; lower it to see more.";
  return "Point at a row, or move through the numbers with the arrow keys, to see its box; press one to keep it marked.";
}

function renderPanels() {
  const rankings = rankingsOf(page.view);
  const panels = byId("panels");
  if (panels.dataset.rankings !== rankings.join()) {
    panels.dataset.rankings = rankings.join();
    panels.replaceChildren(...rankings.map(makePanel));
  }
  for (const figure of panels.children) renderPanel(figure);
}

function makePanel(ranking) {
  const canvas = element("canvas", { role: "img" });
  const figure = element("figure", {}, element("figcaption"), canvas);
  figure.dataset.ranking = ranking;
  const pointed = (event) => {
    const scene = sceneOf(ranking);
    const index = boxAt(scene, canvas, event.offsetX, event.offsetY);
    return index < 0 ? -1 : scene.boxes[index].index;
  };
  canvas.addEventListener("pointermove", (event) => highlight(pointed(event)));
  canvas.addEventListener("pointerleave", () => highlight(-1));
  canvas.addEventListener("click", (event) => pin(pointed(event)));
  return figure;
}

function renderPanel(figure) {
  const { ranking } = figure.dataset;
  const [caption, canvas] = figure.children;
  const compared = page.view === "compare";
  const room = { width: figure.clientWidth, height: Math.max(240, window.innerHeight * (compared ? 0.5 : 0.68)) };
  draw(canvas, sceneOf(ranking), room);
  const count = page.answers?.get(ranking)?.detections.length;
  show(caption, compared);
  caption.replaceChildren(element("b", {}, TITLES[ranking]), element("span", {}, compared && page.answers ? contrast(ranking) : ""));
  const boxes = count === undefined ? "no boxes yet" : `${count} boxes, listed in the table below`;
  canvas.setAttribute("aria-label", `${page.picture.name} ${TITLES[ranking].toLowerCase()}: ${boxes}`);
}

function contrast(ranking) {
  const count = page.answers.get(ranking).detections.length;
  if (ranking === "combined") return `${count} boxes`;
  const { moved, only, gone } = difference(page.objects, "combined", ranking);
  return `${count} boxes: ${only} only here, ${gone} gone, ${moved} moved`;
}

function sceneOf(ranking) {
  const { bitmap } = page.picture;
  const answer = page.answers?.get(ranking);
  const crowded = page.view === "compare" || byId("panels").clientWidth < NARROW_PX;
  const tags = crowded && byId("tags").value === "scores" ? "rank" : byId("tags").value;
  const boxes = page.objects.flatMap(({ labelId, seen }, index) => {
    const here = seen[ranking] ?? seen.combined;
    if (!here) return [];
    const mark = !seen[ranking] ? "gone" : page.view === "compare" && !seen.combined ? "only" : "plain";
    const lit = index === page.lit;
    const tag = mark === "gone" ? [] : tagOf(here.rank, here.detection, lit ? "scores" : tags);
    return [{ index, box: here.detection.box, colour: colourOf(labelId), mark, lit, dim: page.lit >= 0 && !lit, tag }];
  });
  const size = answer ?? bitmap ?? { width: 4, height: 3 };
  return { bitmap, width: size.width, height: size.height, boxes };
}

function renderRequest() {
  if (!page.model) return;
  const { name, saved, blob } = page.picture ?? { name: "photo.jpg", saved: true, blob: { type: "image/jpeg" } };
  const parameters = parametersNow(mainOf(page.ranking));
  const url = new URL("./", document.baseURI).href;
  const request = { url, parameters, query: queryOf(parameters), name, type: mediaType(blob), needsKey: keyGiven() !== "" };
  byId("curl").textContent = curlLines(request);
  byId("python").textContent = pythonLines(request);
  const link = saved ? [] : [element("a", { href: pictureAddress(), download: name }, `Save it as ${name}`), " for these lines."];
  byId("save-note").replaceChildren("This picture is no file of yours. ", ...link);
  show(byId("save-note"), !saved);
}

function pictureAddress() {
  page.picture.address ??= URL.createObjectURL(page.picture.blob);
  return page.picture.address;
}

function renderTiming() {
  const { stages = [], roundTrip = 0 } = page.answers?.get(mainOf(page.view)) ?? {};
  const parts = stages.filter(([name]) => name !== "total");
  const bars = parts.map(([name, ms]) => {
    const bar = element("span", { className: name, title: `${name} ${ms.toFixed(1)} ms` });
    bar.style.setProperty("--share", ms);
    return bar;
  });
  byId("timing").replaceChildren(...bars);
  const rows = stages.length ? [...stages, ["round trip", roundTrip]] : [];
  const entries = rows.map(([name, ms]) => element("div", { className: name }, element("dt", {}, name), element("dd", {}, `${ms.toFixed(1)} ms`)));
  byId("stages").replaceChildren(...entries);
}

// Pointing

function highlight(index) {
  const lit = index < 0 ? page.pinned : index;
  if (lit === page.lit) return;
  page.lit = lit;
  if (page.picture) for (const figure of byId("panels").children) renderPanel(figure);
  light(lit);
}

function pin(index) {
  page.pinned = index === page.pinned ? -1 : index;
  for (const button of byId("table").querySelectorAll("tbody button")) {
    button.setAttribute("aria-pressed", String(rowOf(button) === page.pinned));
  }
  highlight(index);
}

const rowOf = (inside) => Number(inside.closest("tbody tr")?.dataset.index ?? -1);

// Wiring

function rankBy(ranking) {
  page.ranking = ranking;
  for (const radio of document.querySelectorAll("input[name=ranking]")) radio.checked = radio.value === ranking;
}

async function copy(button) {
  const text = byId(button.dataset.copies).textContent;
  const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (!done) getSelection().selectAllChildren(byId(button.dataset.copies)); // no clipboard without HTTPS: select it
  byId("copied").textContent = done ? "Copied." : "Selected; copy it with Ctrl+C.";
}

function listenToControls() {
  listen((name, value) => {
    if (!page.model) return;
    if (name === "operating_point") page.settings = settingsAt(page.model, value, page.settings);
    else page.settings[name] = value;
    if (["fusion", "alpha", "sigma", "score_threshold"].includes(name)) page.settings.operating_point = "";
    if (name === "fusion" && value === "geometric") page.settings.alpha = Math.min(1, page.settings.alpha);
    if (["fusion", "alpha", "sigma", "operating_point"].includes(name) && page.ranking !== "compare") rankBy("combined");
    showSettings(page.model, page.settings);
    renderRequest();
    askSoon();
  });
  byId("rankings").addEventListener("change", ({ target }) => {
    rankBy(target.value);
    renderRequest();
    ask();
  });
  byId("model").addEventListener("change", ({ target }) => {
    choose(page.models.find(({ name, version }) => `${name}/${version}` === target.value));
  });
  byId("reset").addEventListener("click", () => page.model && useOwnSettings());
  byId("key").addEventListener("change", start);
  byId("tags").addEventListener("change", render);
  for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));
}

function listenToTable() {
  const body = byId("table").tBodies[0];
  body.addEventListener("pointerover", ({ target }) => highlight(rowOf(target)));
  body.addEventListener("pointerleave", () => highlight(-1));
  body.addEventListener("focusin", ({ target }) => highlight(rowOf(target)));
  body.addEventListener("focusout", () => highlight(-1));
  body.addEventListener("click", ({ target }) => target instanceof HTMLButtonElement && pin(rowOf(target)));
  body.addEventListener("keydown", rove);
}

listenForPictures(open, (sentence) => report(new Refusal(sentence)));
listenToControls();
listenToTable();
new ResizeObserver(() => page.picture && renderPanels()).observe(byId("panels"));
start();
