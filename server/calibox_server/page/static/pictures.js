// Where a picture comes from: chosen, dropped, pasted.

import { byId } from "./dom.js";

/** Calls `take({blob, name, saved})` for every picture, and `refuse(sentence)` for what is none. */
export function listenForPictures(take, refuse) {
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(fromFile(target.files[0], true));
    target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    const file = firstImage(event.clipboardData.files);
    if (file) take(fromFile(file, false));
    else if (!isField(event.target)) refuse("There is no picture on the clipboard; copy a picture, not its link, and paste again.");
  });
  listenForDrops(take, refuse);
}

function listenForDrops(take, refuse) {
  let depth = 0; // entering a child comes before leaving its parent
  const over = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dropping", depth > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    const { files } = event.dataTransfer;
    if (files.length) take(fromFile(firstImage(files) ?? files[0], true));
    else refuse("What was dropped is a link or a text, not a file; save the picture and drop the file.");
  });
}

const firstImage = (files) => [...files].find(({ type }) => type.startsWith("image/"));
const isField = (target) => target instanceof HTMLInputElement && target.type !== "file" && target.type !== "radio";

function fromFile(file, saved) {
  return { blob: file, name: saved ? file.name : `pasted.${extension(file.type)}`, saved };
}

const extension = (type) => ({ "image/jpeg": "jpg", "image/svg+xml": "svg" })[type] ?? type.split("/")[1];
