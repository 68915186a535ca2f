// The boxes as tables: what the canvas shows, for everybody.

import { colourOf } from "./drawing.js";
import { byId, element } from "./dom.js";

const TITLES = { classification: "Classification", combined: "Combined", localization: "Localization" };

/** One ranking: a row per box with its three scores. */
export function showBoxes(objects, ranking, pinned) {
  const ordered = { combined: 0, classification: 1, localization: 2 }[ranking];
  const titles = [ranking === "combined" ? "Combined score" : "Score", "Classification", "Localization"];
  const scores = titles.map((title, i) => heading(title, { className: "number", ...(i === ordered ? sorted() : {}) }));
  const rows = objects.map((object, index) => {
    const { rank, detection } = object.seen[ranking];
    const { score, classification_score: p, localization_score: q, box } = detection;
    const values = [[score, "s"], [p, "p"], [q, "q"]].map(([value, kind]) => element("td", {}, meter(value, kind)));
    const place = element("td", { className: "place" }, box.map((value) => value.toFixed(1)).join(", "));
    return row(object, index, rank, pinned, [...values, place]);
  });
  fill([heading("Rank"), heading("Class"), ...scores, heading("x1, y1, x2, y2")], rows);
}

/** Several rankings: a row per object with its rank and score in each. */
export function showComparison(objects, rankings, pinned) {
  const rows = objects.map((object, index) => {
    const cells = rankings.map((ranking) => element("td", {}, ...standing(object, ranking)));
    return row(object, index, index + 1, pinned, cells);
  });
  const titles = rankings.map((ranking) => heading(`Rank by ${TITLES[ranking].toLowerCase()}`));
  fill([heading("Object"), heading("Class"), ...titles], rows);
}

/** Marks the rows of the highlighted object. */
export function light(index) {
  for (const row of byId("table").tBodies[0].rows) row.classList.toggle("lit", Number(row.dataset.index) === index);
}

/** Moves through the number buttons with the arrow keys; Tab enters and leaves the table in one step. */
export function rove(event) {
  const buttons = [...byId("table").querySelectorAll("tbody button")];
  const at = buttons.indexOf(event.target);
  const goals = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 };
  const goal = buttons[goals[event.key]];
  if (at < 0 || !goal) return;
  event.preventDefault();
  buttons[at].tabIndex = -1;
  goal.tabIndex = 0;
  goal.focus();
}

function fill(headings, rows) {
  const table = byId("table");
  const focused = table.tBodies[0].contains(document.activeElement);
  const at = Number(document.activeElement?.closest("tr")?.dataset.index ?? 0);
  table.tHead.replaceChildren(element("tr", {}, ...headings));
  table.tBodies[0].replaceChildren(...rows);
  const goal = rows[Math.min(focused ? at : 0, rows.length - 1)]?.querySelector("button");
  if (!goal) return;
  goal.tabIndex = 0;
  if (focused) goal.focus(); // whoever was in the table stays there when its rows change
}

function row(object, index, number, pinned, cells) {
  const swatch = element("span", { className: "swatch" });
  swatch.style.setProperty("--colour", colourOf(object.labelId));
  const label = { type: "button", tabIndex: -1, "aria-pressed": String(pinned === index), "aria-label": `Box ${number}, ${object.label}` };
  const made = element(
    "tr",
    {},
    element("th", { scope: "row" }, element("button", label, String(number))),
    element("td", {}, swatch, object.label),
    ...cells,
  );
  made.dataset.index = index;
  return made;
}

function standing(object, ranking) {
  const here = object.seen[ranking];
  const reference = object.seen.combined;
  if (!here) return [element("span", { className: "absent" }, "not found")];
  const parts = [element("b", {}, String(here.rank)), element("span", { className: "small" }, ` at ${here.detection.score.toFixed(3)} `)];
  if (ranking === "combined") return parts;
  if (!reference) return [...parts, element("span", { className: "change only" }, "only here")];
  const change = reference.rank - here.rank;
  const text = change > 0 ? `▲ ${change}` : change < 0 ? `▼ ${-change}` : "=";
  const words = change > 0 ? `up ${change}` : change < 0 ? `down ${-change}` : "the same rank";
  const arrow = element("span", { "aria-hidden": "true" }, text);
  return [...parts, element("span", { className: "change" }, arrow, element("span", { className: "unseen" }, `, ${words}`))];
}

function meter(value, kind) {
  const bar = element("span", { className: `meter ${kind}`, "aria-hidden": "true" });
  bar.style.setProperty("--value", value);
  return element("span", { className: "metered" }, bar, value.toFixed(3));
}

const heading = (text, properties = {}) => element("th", { scope: "col", ...properties }, text);
const sorted = () => ({ "aria-sort": "descending" });
