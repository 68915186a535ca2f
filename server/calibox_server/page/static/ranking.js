// Which boxes of different rankings are the same object. Pure. Boxes are x1, y1, x2, y2.

export const SAME_OBJECT = 0.5; // IoU; the usual overlap from which two boxes mean the same thing

/** Intersection over union; 0 where nothing has an area. */
export function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

/** For each of `found`, in its order, the index in `reference` of the same object, or -1; each is taken once. */
export function matchBoxes(reference, found) {
  const taken = new Set();
  return found.map((one) => {
    let best = -1;
    let most = SAME_OBJECT;
    reference.forEach((other, index) => {
      const iou = other.label === one.label && !taken.has(index) ? overlap(other.box, one.box) : 0;
      if (iou > most || (iou === most && best < 0)) [best, most] = [index, iou];
    });
    if (best >= 0) taken.add(best);
    return best;
  });
}

/**
 * Objects over several rankings: `{label, box, seen: {ranking: {rank, detection}}}`, ranks from 1.
 * `results` is a list of [ranking, detections]; the objects of the first come first, in its order.
 */
export function objectsOf(results) {
  const objects = [];
  for (const [ranking, detections] of results) {
    const matches = matchBoxes([...objects], detections);
    detections.forEach((detection, index) => {
      let object = objects[matches[index]];
      if (!object) {
        object = { label: detection.label, labelId: detection.label_id, box: detection.box, seen: {} };
        objects.push(object);
      }
      object.seen[ranking] = { rank: index + 1, detection };
    });
  }
  return objects;
}

/** How a ranking differs from a reference one: `{same, moved, only, gone}`; moved ones are among the same. */
export function difference(objects, reference, ranking) {
  const count = (is) => objects.filter(({ seen }) => is(seen[reference], seen[ranking])).length;
  return {
    same: count((a, b) => a && b),
    moved: count((a, b) => a && b && a.detection.box.some((value, i) => value !== b.detection.box[i])),
    only: count((a, b) => !a && b),
    gone: count((a, b) => a && !b),
  };
}
