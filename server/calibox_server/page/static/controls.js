// The settings: what the controls show and what they hold. Values keep the digits of the model's manifest until moved.

import { byId, element, show } from "./dom.js";
import { parameterOf } from "./requests.js";

const RANGES = ["alpha", "sigma", "score_threshold", "iou_threshold", "refine"];
const LARGEST_POWER = 4; // beyond it, the localization score alone decides
const FORMULAS = {
  product: () => "p · q",
  geometric: ({ alpha }) => `p^${shown(alpha)} · q^${shown(1 - alpha)}`,
  power: ({ alpha }) => `p · q^${shown(alpha)}`,
  gaussian: ({ sigma }) => `p · exp(−(1 − q)² / ${shown(sigma)})`,
};

/** A number as the controls show it. */
export const shown = (value) => String(Math.round(value * 100) / 100);

/** The settings that a model's manifest names. */
export function settingsOf(model) {
  return {
    ...rankingOf(model.fusion),
    operating_point: "",
    score_threshold: model.score_threshold,
    iou_threshold: model.iou_threshold,
    refine: model.refinement?.default_steps ?? 0,
  };
}

/** The settings of one of the model's operating points, or its own where there is no point of this name. */
export function settingsAt(model, name, settings) {
  const point = pointsOf(model).find((one) => one.name === name);
  if (!point) return { ...settingsOf(model), iou_threshold: settings.iou_threshold, refine: settings.refine };
  return { ...settings, ...rankingOf(point.fusion), operating_point: name, score_threshold: point.score_threshold };
}

/** The model's operating points. */
const pointsOf = (model) => model.operating_points ?? [];

function rankingOf({ name, alpha, sigma }) {
  const combined = name in FORMULAS ? name : "geometric"; // a ranking by one score alone
  return { fusion: combined, alpha: combined === name ? alpha : 0.5, sigma };
}

/** Calls `changed(name, value)` whenever the person moves a control. */
export function listen(changed) {
  for (const name of RANGES) byId(name).addEventListener("input", ({ target }) => changed(name, target.valueAsNumber));
  for (const name of ["fusion", "operating_point"]) {
    byId(name).addEventListener("change", ({ target }) => changed(name, target.value));
  }
}

/** Shows `settings` of `model`; only the controls that the fusion and the model have. */
export function showSettings(model, settings) {
  const used = parameterOf(settings.fusion);
  show(byId("alpha-field"), used === "alpha");
  show(byId("sigma-field"), used === "sigma");
  show(byId("refine-field"), model.refinement !== null);
  show(byId("point-field"), pointsOf(model).length > 0);
  byId("operating_point").value = settings.operating_point;
  byId("alpha").max = settings.fusion === "power" ? Math.max(LARGEST_POWER, settings.alpha) : 1;
  byId("sigma").max = Math.max(2, settings.sigma);
  byId("refine").max = model.refinement?.steps ?? 1;
  byId("fusion").value = settings.fusion;
  for (const name of RANGES) {
    byId(name).value = settings[name];
    byId(name).parentElement.querySelector(".value").textContent = shown(settings[name]);
  }
  byId("formula").textContent = `${FORMULAS[settings.fusion](settings)}, with p for classification, q for localization`;
}

/** Fills the list of models; broken ones are there, with the reason, and cannot be chosen. */
export function showModels(models, chosen) {
  const options = models.map((model) => {
    const title = `${model.name}/${model.version}`;
    if (model.state === "ready") return element("option", { value: title, selected: model === chosen }, title);
    return element("option", { value: title, disabled: true, title: model.reason ?? "" }, `${title} (${model.state})`);
  });
  byId("model").replaceChildren(...options);
}

/** Fills the list of the model's operating points. */
export function showPoints(model) {
  const options = pointsOf(model).map(({ name, description }) => element("option", { value: name, title: description }, name));
  byId("operating_point").replaceChildren(element("option", { value: "" }, "none"), ...options);
}

/** What a model says about itself. */
export function showAbout(model) {
  const names = model.classes.map(({ name }) => name);
  const classes = names.length > 6 ? `${names.slice(0, 6).join(", ")} and ${names.length - 6} more` : names.join(", ");
  byId("about").textContent = `${model.description} Finds ${classes}. ${model.engine.name}.`;
}
