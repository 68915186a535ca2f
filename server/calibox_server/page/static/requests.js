// From settings to parameters, and to the lines that send the same request from elsewhere. Pure.

const USES = { geometric: "alpha", power: "alpha", gaussian: "sigma" };

/** The parameter that a fusion has: "alpha", "sigma" or undefined. */
export const parameterOf = (fusion) => USES[fusion];

/** Parameters as [name, text or number] for one ranking: "classification", "combined" or "localization". */
export function parametersOf(model, settings, ranking) {
  const fusion = ranking === "combined" ? settings.fusion : ranking;
  const own = parameterOf(fusion);
  const point = ranking === "combined" ? settings.operating_point : ""; // another ranking has no use for its thresholds
  return [
    ["model", model.name],
    ["version", model.version],
    ...(point
      ? [["operating_point", point]]
      : [["fusion", fusion], ...(own ? [[own, settings[own]]] : []), ["score_threshold", settings.score_threshold]]),
    ["iou_threshold", settings.iou_threshold],
    ...(model.refinement ? [["refine", settings.refine]] : []),
  ];
}

/** Parameters as a query. */
export const queryOf = (parameters) => new URLSearchParams(parameters.map(([name, value]) => [name, String(value)])).toString();

/** The request as a curl command; `request` is `{url, query, name, type, needsKey}`. */
export function curlLines({ url, query, name, type, needsKey }) {
  const file = /^[-<]/.test(name) ? `./${name}` : name; // curl reads standard input for `-`
  return [
    `curl ${quoted(`${url}v1/detect?${query}`)}`,
    ...(needsKey ? ['-H "Authorization: Bearer $CALIBOX_KEY"'] : []),
    `-H ${quoted(`Content-Type: ${type}`)}`,
    `--data-binary ${quoted(`@${file}`)}`,
  ].join(" \\\n  ");
}

/** The request with calibox_client; `request` is `{url, parameters, name, needsKey}`. */
export function pythonLines({ url, parameters, name, needsKey }) {
  const given = parameters.map(([key, value]) => `        ${key}=${JSON.stringify(value)},\n`).join("");
  const headers = needsKey ? ', headers={"Authorization": f"Bearer {os.environ[\'CALIBOX_KEY\']}"}' : "";
  return `${needsKey ? "import os\n\n" : ""}from calibox_client import Client

with Client(${JSON.stringify(url.replace(/\/$/, ""))}${headers}) as client:
    found = client.detect(
        ${JSON.stringify(name)},
${given}    )
for one in found:
    print(one.label, one.score, one.classification_score, one.localization_score, one.box)
`;
}

// For a POSIX shell; plain words stay as they are.
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
