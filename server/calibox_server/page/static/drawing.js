// A picture with boxes on a canvas, sharp on any screen.

// Bright, so that they show on dark and, with the dark edge around each line, on bright pictures.
const COLOURS = ["#ff6b6b", "#4db2ff", "#ffc83d", "#3ddc97", "#c99bff", "#ff9d5c", "#5ce1e6", "#ff8ad0", "#b8e04a", "#a8b4ff"];
const EDGE = "rgb(10 16 26 / 0.75)";
const TAG = "rgb(10 16 26 / 0.86)";
const GONE = "#c9d1dc";
const SCORE_INKS = ["#ffffff", "#8ec5ff", "#ffc27a"]; // score, classification, localization: as in the legend
const FONT = "600 11.5px ui-sans-serif, system-ui, sans-serif";
const TAG_HEIGHT = 16;
const TAG_GAP = 5;
const LARGEST_ZOOM = 3; // a picture of a few pixels does not fill the screen

/** The colour of a class, the same in pictures and tables. */
export const colourOf = (label) => COLOURS[label % COLOURS.length];

/**
 * Draws `scene`: `{bitmap, width, height, boxes}`, boxes as `{box, colour, mark, lit, dim, tag}` with mark "plain",
 * "only" or "gone" and tag a list of [text, ink]. The first boxes are drawn over the others, lit ones over all.
 */
export function draw(canvas, scene, room) {
  const scale = Math.min(room.width / scene.width, room.height / scene.height, LARGEST_ZOOM);
  const density = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(scene.width * scale), Math.round(scene.height * scale)];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d");
  context.scale(density, density);
  context.imageSmoothingQuality = "high";
  if (scene.bitmap) context.drawImage(scene.bitmap, 0, 0, width, height);
  else drawGround(context, width, height);
  const order = [...scene.boxes].reverse().sort((a, b) => a.lit - b.lit || (b.mark === "gone") - (a.mark === "gone"));
  for (const one of order) drawBox(context, one, scale);
  drawTags(context, order.filter(({ tag, dim }) => tag.length && !dim), scale, { width, height });
}

/** Index of the smallest box at a place of the canvas, in its CSS pixels; -1 where none is. */
export function boxAt(scene, canvas, x, y) {
  const scale = scene.width / canvas.clientWidth;
  const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  let found = -1;
  scene.boxes.forEach((one, index) => {
    const [x1, y1, x2, y2] = one.box;
    const inside = x * scale >= x1 && x * scale <= x2 && y * scale >= y1 && y * scale <= y2;
    if (inside && (found < 0 || area(one) < area(scene.boxes[found]))) found = index;
  });
  return found;
}

/** The tag of a box: rank, class, and its three scores in per cent. */
export function tagOf(rank, detection, kind) {
  if (kind === "none") return [];
  if (kind === "rank") return [[String(rank), "#ffffff"]];
  const scores = [detection.score, detection.classification_score, detection.localization_score];
  const percent = scores.map((value, i) => [String(Math.round(value * 100)), SCORE_INKS[i]]);
  return [[`${rank} ${detection.label}`, "#ffffff"], ...percent];
}

function drawGround(context, width, height) {
  context.fillStyle = "#39424f"; // a format that the server reads and this browser does not show
  context.fillRect(0, 0, width, height);
}

function drawBox(context, { box, colour, mark, lit, dim }, scale) {
  const [x1, y1, x2, y2] = box.map((value) => value * scale);
  context.globalAlpha = dim ? 0.35 : 1;
  const strokes = lit ? [[EDGE, 7], [colour, 4]] : [[EDGE, 4], [mark === "gone" ? GONE : colour, 2]];
  for (const [ink, line] of strokes) {
    context.setLineDash(ink === EDGE || mark === "plain" ? [] : mark === "only" ? [7, 4] : [2, 3]);
    context.strokeStyle = ink;
    context.lineWidth = line;
    if (mark !== "gone" || ink !== EDGE) context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  context.setLineDash([]);
  context.globalAlpha = 1;
}

function drawTags(context, boxes, scale, room) {
  context.font = FONT;
  context.textBaseline = "middle";
  const taken = [];
  for (const one of [...boxes].reverse()) taken.push(placeTag(one, lengthOf(context, one.tag), scale, room, taken));
  boxes.forEach((one, index) => drawTag(context, one, taken[boxes.length - 1 - index]));
}

/** Above the box, or else where it covers no tag of a better one; `{x, y, length}`. */
function placeTag({ box }, length, scale, room, taken) {
  const [x1, y1, x2, y2] = box.map((value) => value * scale);
  const [left, right] = [x1 - 1, x2 + 1 - length].map((x) => Math.max(0, Math.min(x, room.width - length)));
  const rows = [y1 - TAG_HEIGHT - 1, y1 + 1, y2 + 1, y2 - TAG_HEIGHT - 1];
  const inside = rows.filter((y) => y >= 0 && y + TAG_HEIGHT <= room.height);
  const places = inside.flatMap((y) => [{ x: left, y, length }, { x: right, y, length }]);
  const apart = (a, b) => a.x + a.length <= b.x || b.x + b.length <= a.x || Math.abs(a.y - b.y) >= TAG_HEIGHT;
  return places.find((place) => taken.every((other) => apart(place, other))) ?? places[0] ?? { x: left, y: 0, length };
}

const lengthOf = (context, tag) => tag.reduce((sum, [text]) => sum + context.measureText(text).width + TAG_GAP, TAG_GAP + 3);

function drawTag(context, { colour, tag }, { x, y, length }) {
  context.fillStyle = TAG;
  context.fillRect(x, y, length, TAG_HEIGHT);
  context.fillStyle = colour;
  context.fillRect(x, y, 3, TAG_HEIGHT);
  let at = x + 3 + TAG_GAP;
  for (const [text, ink] of tag) {
    context.fillStyle = ink;
    context.fillText(text, at, y + TAG_HEIGHT / 2 + 0.5);
    at += context.measureText(text).width + TAG_GAP;
  }
}
