"""What a detector's outputs mean, found by trying every reading of them on training images.

The right one puts boxes on the annotated objects of their classes; the others put them elsewhere.

Letters: K rows of the detector, C classes, G objects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou
from calibox_core.dataset import DataFolder
from calibox_core.letterbox import PAD_VALUE, letterbox_into
from calibox_core.manifest import ClassInfo
from calibox_export.attach.description import BOX_FORMS, BOX_UNITS, ForeignHints, ForeignSpec, class_numbers
from calibox_export.attach.detector_graph import PREFIX, ForeignDetector, raw_graph, reading_graph
from calibox_export.attach.foreign import Arrays, ImageInput, image_input, open_session, output_names, run_once
from calibox_export.errors import ExportError
from calibox_training.data.coco import ImageRecord, read_image

TRIED_IMAGES = 24  # with an object; a few hundred objects tell any two readings apart
TRIED_ROWS = 50  # of an image; hits stand among the best
HIT = 0.5  # IoU from which a box counts
# Score-weighted share of hits below which no reading can be told from chance: detectors worth attaching to reach more.
LEAST_HITS = 0.02


@dataclass(frozen=True, slots=True)
class Settled:
    """A detector, and how sure its description is."""

    detector: ForeignDetector
    hits: float  # share of the scores on boxes that hit an object of their class, 0..1
    next_best: float  # of the reading that was second; 0 where there was one


def settle(
    model: onnx.ModelProto,
    hints: ForeignHints,
    folder: DataFolder,
    records: Sequence[ImageRecord],
    classes: Sequence[ClassInfo],
) -> Settled:
    """The description of a file: hints, what the file says, and the best reading of its outputs.

    Args:
        model: at opset 20.
        hints: of the user.
        folder: of the data set.
        records: of the training split.
        classes: of the data set.

    Raises:
        ExportError: something cannot be told, or no reading makes boxes hit objects.
    """
    given = image_input(model, hints)
    blank = run_once(model, {given.name: given.blank(1)})
    boxes, scores, labels = output_names(blank, hints)
    ranks = {name: array.ndim for name, array in blank.items()}
    batched = not given.one and ranks[boxes] == 3 and _answers_pairs(model, given, blank)

    def described(form: str, unit: str, offset: int | str) -> ForeignDetector:
        known = {
            "input": given.name,
            "layout": given.layout,
            "height": given.height,
            "width": given.width,
            "boxes": boxes,
            "scores": scores,
            "labels": labels,
            "box_form": form,
            "box_unit": unit,
            "label_offset": offset,
        }
        spec = ForeignSpec.model_validate(hints.model_dump() | known)
        return ForeignDetector(model, spec, given.kind, ranks, batched)

    readings = [described(*reading) for reading in _readings(hints, classes, blank[scores], labels is not None)]
    return _best(readings, folder, records, classes)


def _readings(
    hints: ForeignHints, classes: Sequence[ClassInfo], scores: NDArray[np.floating], lists: bool
) -> Iterator[tuple[str, str, int | str]]:
    """Every form, unit and offset that the hints leave open, the commonest first."""
    columns = scores.shape[-1]
    offsets: list[int | str] = [0, 1, "category_ids"]
    ids = [c.category_id for c in classes]
    # Ids that are labels from 0 or 1 are no third reading.
    offsets = [o for n, o in enumerate(offsets) if n < 2 or ids not in ([*range(len(ids))], [*range(1, len(ids) + 1)])]
    if hints.label_offset is not None:
        offsets = [hints.label_offset]
    if not lists:
        offsets = [o for o in offsets if max(class_numbers(o, ids)) < columns]
        if not offsets:
            raise ExportError(
                f"the scores have {columns} columns, and the data set {len(ids)} classes: the detector is for others"
            )
    forms = BOX_FORMS if hints.box_form is None else (hints.box_form,)
    units = BOX_UNITS if hints.box_unit is None else (hints.box_unit,)
    yield from product(forms, units, offsets)


def _answers_pairs(model: onnx.ModelProto, given: ImageInput, alone: Arrays) -> bool:
    """Whether two pictures get two answers of the same shape; some files say so and have the 1 baked in."""
    try:
        pair = run_once(model, {given.name: given.blank(2)})
    except ExportError:
        return False
    return all(pair[name].shape == (2, *array.shape[1:]) for name, array in alone.items())


def _best(
    readings: Sequence[ForeignDetector],
    folder: DataFolder,
    records: Sequence[ImageRecord],
    classes: Sequence[ClassInfo],
) -> Settled:
    shown = [record for record in records if (record.labels >= 0).any()][:TRIED_IMAGES]
    first = readings[0]
    session = open_session(raw_graph(first))
    raw, placed = [], []
    for record in shown:
        slot = np.empty((1, first.spec.height, first.spec.width, 3), np.uint8)
        box = letterbox_into(slot[0], read_image(folder, record), pad_value=PAD_VALUE)
        answer = session.run([PREFIX + name for name in first.ranks], {"images": slot})
        raw.append(dict(zip(first.ranks, answer, strict=True)))
        placed.append((box.to_input(record.boxes), record.labels))
    _require_scores(raw, first.spec)
    hits = [_hits(reading, raw, placed, classes) for reading in readings]
    order = np.argsort([-weight for weight, _ in hits], kind="stable")
    best = readings[order[0]]
    share = hits[order[0]][1]
    if share < LEAST_HITS:
        raise ExportError(
            f"no reading of the detector's outputs puts boxes on the objects of {len(shown)} training images (at best "
            f"{share:.1%} of the scores do): are scale, mean, std, channels and activation right in the description, "
            "and is it a detector for these classes?"
        )
    return Settled(best, share, hits[order[1]][1] if len(order) > 1 else 0.0)


def _require_scores(raw: Sequence[Arrays], spec: ForeignSpec) -> None:
    if spec.activation != "none":
        return
    for answer in raw:
        values = answer[spec.scores]
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise ExportError(
                f"the scores in {spec.scores} reach from {values.min():.3g} to {values.max():.3g}, not 0..1; write "
                "`activation: sigmoid` (or softmax) into the description"
            )


def _hits(
    reading: ForeignDetector,
    raw: Sequence[Arrays],
    placed: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
    classes: Sequence[ClassInfo],
) -> tuple[float, float]:
    """Sum of the scores of hits, and their share of all scores, over the best rows of every image."""
    spec = reading.spec
    numbers = class_numbers(spec.label_offset, [c.category_id for c in classes])
    session = open_session(reading_graph(reading, numbers, TRIED_ROWS))
    names = [name for name in (spec.boxes, spec.scores, spec.labels) if name is not None]
    hit = every = 0.0
    for answer, (objects_G4, labels_G) in zip(raw, placed, strict=True):
        boxes_1K4, p_1KC = session.run(["boxes", "p"], {PREFIX + name: answer[name] for name in names})
        iou_KG = pairwise_iou(boxes_1K4[0], objects_G4.astype(np.float32))
        label_K, score_K = p_1KC[0].argmax(axis=1), np.nan_to_num(p_1KC[0].max(axis=1))
        fits_K = ((iou_KG >= HIT) & (label_K[:, None] == labels_G)).any(axis=1)
        hit += float(score_K[fits_K].sum())
        every += float(score_K.sum())
    return hit, hit / every if every else 0.0
