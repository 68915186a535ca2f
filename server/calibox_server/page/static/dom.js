// Small helpers around the document. Text only ever becomes text: nothing here reads markup.

export const byId = (id) => document.getElementById(id);

/** An element with properties, attributes (names with a dash, `role`) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "scope") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Calls `action` once, `pause` ms after the last time it was asked for. */
export function debounced(action, pause) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, pause);
  };
}

/** Shows or hides. */
export function show(shown, seen) {
  shown.hidden = !seen;
}
