"""`calibox attach-quality` from end to end: detections, training, measurement, and a bundle where there is a file."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.bundle import sha256_of
from calibox_core.dataset import DataFolder, Split
from calibox_core.manifest import ClassInfo
from calibox_export.attach.bundle import Choice, write_bundle
from calibox_export.attach.description import ForeignHints, class_numbers
from calibox_export.attach.detector_graph import ForeignDetector, detector_graph
from calibox_export.attach.evidence import settle
from calibox_export.attach.foreign import open_foreign, open_session
from calibox_export.attach.measure import Outcome, measure
from calibox_export.attach.report import markdown
from calibox_export.attach.results import detect_split, write_results
from calibox_export.attach.scoring import rescored, score_images
from calibox_export.verify import letterboxed_images
from calibox_training.data.coco import ImageRecord, read_classes, read_records
from calibox_training.iou_net.attached import AttachedModel, AttachedRecipe, AttachedRun, load_attached, train_attached
from calibox_training.iou_net.foreign_boxes import ForeignBoxes, read_results
from calibox_training.reproduce.analysis import DRAWS
from calibox_training.reproduce.results import write_text
from calibox_training.run_checkpoints import LAST_CHECKPOINT
from calibox_training.train import METRICS

SPLITS: tuple[Split, Split] = ("train", "val")
FACTS, REPORT, PAGE = "detector.json", "report.json", "report.md"
PROBES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where things go and how they are run."""

    output: Path
    models: Path
    boxes: int = 100  # K
    accelerator: str = "auto"
    workers: int = 2
    draws: int = DRAWS


@dataclass(frozen=True, slots=True)
class Ground:
    """A data set, read."""

    folder: DataFolder
    classes: tuple[ClassInfo, ...]
    records: dict[Split, list[ImageRecord]]


@dataclass(frozen=True, slots=True)
class Detector:
    """The file, as it goes into a bundle."""

    foreign: ForeignDetector
    numbers: list[int]
    facts: dict[str, Any]


Say = Callable[[str], None]


def read_ground(folder: DataFolder) -> Ground:
    """Classes and records of both splits.

    Raises:
        DatasetError: see `read_records`.
    """
    documents = {split: folder.annotations(split) for split in SPLITS}
    classes = read_classes(documents["train"])
    return Ground(folder, classes, {s: read_records(documents[s], classes, folder.source(s)) for s in SPLITS})


def open_detector(path: Path, hints: ForeignHints, ground: Ground, options: Options, say: Say) -> Detector:
    """The file, described.

    Raises:
        ExportError: it cannot be read or described.
    """
    settled = settle(open_foreign(path), hints, ground.folder, ground.records["train"], ground.classes)
    spec = settled.detector.spec
    say(
        f"{path.name}: {spec.width}x{spec.height}, boxes {spec.box_form} in {spec.box_unit}, classes from "
        f"{spec.label_offset}; {settled.hits:.0%} of its scores are on objects of training images, "
        f"{settled.next_best:.0%} by the next best reading"
    )
    numbers = class_numbers(spec.label_offset, [c.category_id for c in ground.classes])
    facts = {
        "sha256": sha256_of(path),
        "file": path.name,
        "description": spec.model_dump(mode="json"),
        "boxes": options.boxes,
    }
    return Detector(settled.detector, numbers, facts)


def run_detector(
    detector: Detector, recipe: AttachedRecipe, ground: Ground, options: Options, say: Say
) -> dict[Split, Path]:
    """Runs it over both splits, or takes what an earlier run with the same file and description found."""
    paths = {split: options.output / f"detections_{split}.json" for split in SPLITS}
    facts = {**detector.facts, "candidate_floor": recipe.nms.candidate_floor, "data": _hashes(ground.folder)}
    noted = options.output / FACTS
    if noted.is_file() and json.loads(noted.read_text()) == facts and all(path.is_file() for path in paths.values()):
        say("its detections are there already")
        return paths
    noted.unlink(missing_ok=True)
    session = open_session(detector_graph(detector.foreign, detector.numbers, options.boxes))

    def network(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        boxes, p = session.run(["boxes", "p"], {"images": images})
        return boxes, p

    for split, path in paths.items():
        start = time.monotonic()
        rows = detect_split(
            network,
            ground.folder,
            ground.records[split],
            ground.classes,
            recipe.input,
            floor=recipe.nms.candidate_floor,
        )
        write_results(path, rows)
        say(f"{split}: {len(rows)} detections in {len(ground.records[split])} images, {time.monotonic() - start:.0f} s")
    write_text(noted, json.dumps(facts, indent=2))
    return paths


def _hashes(folder: DataFolder) -> list[str]:
    return [sha256_of(path) for split in SPLITS for path in folder.annotation_files(split)]


def attach(
    recipe: AttachedRecipe,
    ground: Ground,
    detections: dict[Split, Path],
    options: Options,
    say: Say,
    *,
    detector: Detector | None = None,
) -> Path:
    """Trains, measures, writes the report and rescored results of the validation split; and a bundle of a file.

    Args:
        recipe: of the training; its input is the detector's.
        ground: of the data set.
        detections: COCO results of both splits.
        options: where things go.
        say: progress.
        detector: the file behind the detections, where there is one.

    Returns: the bundle, or the checkpoint where there is no file.
    """
    found = {split: read_results(path, ground.records[split], ground.classes) for split, path in detections.items()}
    facts = detector.facts if detector else {"results": {s: sha256_of(p) for s, p in detections.items()}}
    checkpoint = _trained(recipe, ground, found["train"], facts, options, say)
    model = load_attached(checkpoint)
    outcome = _measured(model, ground, found["val"], options, say, _facts(model, ground, found, detector))
    if detector is None:
        return checkpoint
    shipped = f"chosen: {_name(outcome)}"
    return write_bundle(
        detector.foreign,
        detector.numbers,
        options.boxes,
        model,
        Choice(outcome.fusion, outcome.refine),
        options.models,
        measured={"val_test_half": next(line.metrics for line in outcome.lines if line.name == shipped)},
        probes=letterboxed_images(ground.folder, "val", recipe.input, PROBES),
    )


def _name(outcome: Outcome) -> str:
    """Of the line that the bundle's defaults make."""
    names = [line.name.removeprefix("chosen: ") for line in outcome.lines if line.name.startswith("chosen: ")]
    return next(name for name in names if name.endswith(", refined") == outcome.refine)


def _trained(
    recipe: AttachedRecipe,
    ground: Ground,
    found: Sequence[ForeignBoxes],
    facts: dict[str, Any],
    options: Options,
    say: Say,
) -> Path:
    """The checkpoint; a finished training of the same recipe for the same detector is taken as it is."""
    last = options.output / "checkpoints" / LAST_CHECKPOINT
    if last.is_file() and (options.output / METRICS).is_file():
        there = load_attached(last)
        if (there.recipe, there.detector) == (recipe, facts):
            say("its training is there already")
            return last
    run = AttachedRun(output=options.output, accelerator=options.accelerator, workers=options.workers)
    start = time.monotonic()
    last = train_attached(recipe, ground.folder, found, facts, run)
    say(f"trained {recipe.schedule.epochs} epochs in {time.monotonic() - start:.0f} s")
    return last


def _measured(
    model: AttachedModel,
    ground: Ground,
    found: Sequence[ForeignBoxes],
    options: Options,
    say: Say,
    facts: Sequence[str],
) -> Outcome:
    images = list(score_images(model, ground.folder, ground.records["val"], found))
    outcome = measure(
        images,
        ground.folder.annotations("val"),
        ground.classes,
        model.recipe.nms,
        iou_threshold=model.recipe.thresholds.iou,
        draws=options.draws,
    )
    rows = rescored(images, ground.classes, outcome.fusion.exponents(), refined=outcome.refine)
    write_results(options.output / "rescored_val.json", rows)
    write_text(options.output / REPORT, outcome.model_dump_json(indent=2))
    page = markdown(outcome, facts)
    write_text(options.output / PAGE, page)
    say(page)
    return outcome


def _facts(
    model: AttachedModel, ground: Ground, found: dict[Split, list[ForeignBoxes]], detector: Detector | None
) -> list[str]:
    size, schedule, spec = model.recipe.input, model.recipe.schedule, model.recipe.features
    counts = {split: sum(len(one.p_N) for one in boxes) for split, boxes in found.items()}
    source = f"`{detector.facts['file']}`" if detector else "COCO results"
    return [
        f"detector: {source}, {counts['train']} boxes on {len(found['train'])} training images, {counts['val']} on "
        f"{len(found['val'])} of validation",
        f"data: {model.dataset.name}, {len(ground.classes)} classes, at {size.width}x{size.height}",
        f"training: {spec.backbone} at width {spec.backbone_width:g}, {schedule.epochs} epochs of batches of "
        f"{schedule.batch_size}, share of the detector's boxes {model.recipe.detector_share:g}; error of the predicted "
        f"IoU on jittered validation boxes {_shown(model.metrics.get('iou_error'))}, correlation "
        f"{_shown(model.metrics.get('pearson_localization'))}",
    ]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
