"""One batch through the graph, held against the network in torch and the reference of CalibratedNMS.

Letters: B images, A anchors, C classes, K candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.fusion import Exponents, Fusion, FusionName
from calibox_core.manifest import Manifest
from calibox_core.nms import Detections, NmsAttributes, calibrated_nms, select_candidates
from calibox_core.operator_names import OUTPUTS
from calibox_export.iou_net.refined import Refiner, compare_refined, mixed_steps
from calibox_export.level_cut import LevelCut, passed_anchors
from calibox_export.sameness import (
    ONE_RUNTIME,
    TWO_FRAMEWORKS,
    Outcome,
    Rows,
    Sure,
    Tolerance,
    compare_rows,
    sure_candidates,
    sure_detections,
)

Arrays = Mapping[str, NDArray[Any]]
# Runs a bundle's graph: inputs by name to outputs by name.
Graph = Callable[[Arrays], Arrays]
# Runs the network before the operator: images [B, H, W, 3] and fusion [B, 3] to boxes, p and q.
Network = Callable[[NDArray[np.uint8], NDArray[np.float32]], tuple[NDArray[np.float32], ...]]

NETWORK = "network"
ANSWER = "answer"
OPERATOR = "operator"
REFINED = "refined"
MEANING = {
    NETWORK: "candidates before suppression, PyTorch against ONNX Runtime",
    ANSWER: "detections, the reference on PyTorch's network against ONNX Runtime",
    OPERATOR: "detections, the reference on the graph's own candidates against ONNX Runtime",
    REFINED: "kept boxes after steps of refinement, PyTorch against ONNX Runtime",
}


class Setting(NamedTuple):
    """What one request may choose."""

    exponents: Exponents
    score_threshold: float
    iou_threshold: float


def usual_settings(manifest: Manifest) -> list[Setting]:
    """The model's own, and three that report everything under rankings that any model has; a batch mixes them."""
    own, iou = manifest.fusion.exponents(), manifest.thresholds.iou
    plain, product = (Fusion(name=name).exponents() for name in (FusionName.CLASSIFICATION, FusionName.PRODUCT))
    return [
        Setting(own, manifest.thresholds.score, iou),
        Setting(own, 0.0, iou),
        Setting(plain, 0.0, iou),
        Setting(product, 0.0, iou),
    ]


def open_graph(model: Path | bytes, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Graph:
    """A bundle's ONNX file, or its bytes, in ONNX Runtime; all outputs, candidates included.

    Args:
        model: what runs.
        providers: on what, the CPU by default; the first that is there.
    """
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=list(providers))

    def run(feeds: Arrays) -> Arrays:
        return dict(zip(OUTPUTS, session.run(list(OUTPUTS), dict(feeds)), strict=True))

    return run


def graph_feeds(images: NDArray[np.uint8], settings: Sequence[Setting]) -> dict[str, NDArray[Any]]:
    """Inputs of the graph for images ``[B, H, W, 3]`` with one setting each."""
    return {
        "images": images,
        "fusion": np.array([setting.exponents for setting in settings], np.float32).reshape(-1, 3),
        "score_threshold": np.array([setting.score_threshold for setting in settings], np.float32),
        "iou_threshold": np.array([setting.iou_threshold for setting in settings], np.float32),
        "refine_steps": np.zeros(len(settings), np.int32),
    }


def compare_batch(
    images: NDArray[np.uint8],
    settings: Sequence[Setting],
    *,
    graph: Graph,
    network: Network | None,
    manifest: Manifest,
    cuts: Sequence[LevelCut] = (),
    refiner: Refiner | None = None,
) -> dict[str, Outcome]:
    """Runs a batch on every side and compares image by image.

    Args:
        images: uint8 ``[B, H, W, 3]``, letterboxed.
        settings: one per image.
        graph: of the bundle.
        network: the same network in torch with all anchors of every level; None compares only the operator with its
            reference.
        manifest: of the bundle.
        cuts: of the levels that the graph cuts to their best.
        refiner: PyTorch's refinement of kept boxes; None compares none.

    Returns: an outcome for each comparison of `MEANING` that was made.
    """
    feeds = graph_feeds(images, settings)
    found = graph(feeds)
    outcomes = {OPERATOR: Outcome()}
    for i, setting in enumerate(settings):
        detections, candidates = detected_rows(found, i), candidate_rows(found, i)
        raw = as_anchors(candidates, len(manifest.classes))
        outcomes[OPERATOR] += _compare_detections(detections, raw, setting, manifest.nms, ONE_RUNTIME)
    if refiner is not None and manifest.refinement is not None:
        steps = mixed_steps(len(images), manifest.refinement.steps)
        refined = graph(feeds | {"refine_steps": steps})
        outcomes[REFINED] = compare_refined(images, steps, found, refined, refiner)
    if network is None:
        return outcomes
    boxes, p, q = network(images, feeds["fusion"])
    outcomes = {NETWORK: Outcome(), ANSWER: Outcome(), **outcomes}
    for i, setting in enumerate(settings):
        raw = boxes[i], p[i], q[i]
        outcomes[NETWORK] += _compare_candidates(candidate_rows(found, i), raw, setting, manifest.nms, cuts)
        outcomes[ANSWER] += _compare_detections(
            detected_rows(found, i), raw, setting, manifest.nms, TWO_FRAMEWORKS, cuts
        )
    return outcomes


def compare_engine(found: Arrays, expected: Arrays, settings: Sequence[Setting], manifest: Manifest) -> Outcome:
    """Detections of another runtime, held against what the ONNX file's own candidates make sure.

    Args:
        found: of the other runtime.
        expected: of the ONNX file in ONNX Runtime.
        settings: one per image.
        manifest: of the bundle.
    """
    outcome = Outcome()
    for i, setting in enumerate(settings):
        raw = as_anchors(candidate_rows(expected, i), len(manifest.classes))
        outcome += _compare_detections(detected_rows(found, i), raw, setting, manifest.nms, TWO_FRAMEWORKS)
    return outcome


Raw = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]  # boxes [A, 4], p [A, C], q [A, 1 or C]


def _compare_candidates(
    found: Rows, raw: Raw, setting: Setting, attributes: NmsAttributes, cuts: Sequence[LevelCut]
) -> Outcome:
    sure = sure_candidates(
        *raw,
        exponents=setting.exponents,
        attributes=attributes,
        tolerance=TWO_FRAMEWORKS,
        cuts=cuts,
    )
    expected = select_candidates(*_cut(raw, setting, cuts), setting.exponents, attributes).anchor_class
    return compare_rows(found, sure, expected, TWO_FRAMEWORKS)


def _compare_detections(
    found: Rows,
    raw: Raw,
    setting: Setting,
    attributes: NmsAttributes,
    tolerance: Tolerance,
    cuts: Sequence[LevelCut] = (),
) -> Outcome:
    sure, expected = reference_answer(raw, setting, attributes, tolerance, cuts)
    return compare_rows(found, sure, expected.anchor_class, tolerance)


def reference_answer(
    raw: Raw, setting: Setting, attributes: NmsAttributes, tolerance: Tolerance, cuts: Sequence[LevelCut] = ()
) -> tuple[Sure, Detections]:
    """What must and may be kept of one image's raw scores, and what the reference of the operator keeps.

    Args:
        raw: boxes ``[A, 4]``, p ``[A, C]`` and q ``[A, 1]`` or ``[A, C]``.
        setting: of the request.
        attributes: of the operator.
        tolerance: between the two sides.
        cuts: of the levels that are cut to their best before the selection.
    """
    candidates = sure_candidates(
        *raw, exponents=setting.exponents, attributes=attributes, tolerance=tolerance, cuts=cuts
    )
    sure = sure_detections(
        candidates,
        iou_threshold=setting.iou_threshold,
        score_threshold=setting.score_threshold,
        attributes=attributes,
        tolerance=tolerance,
    )
    expected = calibrated_nms(
        *_cut(raw, setting, cuts),
        exponents=setting.exponents,
        score_threshold=setting.score_threshold,
        iou_threshold=setting.iou_threshold,
        attributes=attributes,
    )
    return sure, expected


def _cut(raw: Raw, setting: Setting, cuts: Sequence[LevelCut]) -> Raw:
    """The same with no score for the anchors that this side's own keys would cut."""
    boxes, p, q = raw
    own = passed_anchors(p, q, setting.exponents, cuts, tie=0.0).own
    return boxes, p * own[:, None], q


def detected_rows(found: Arrays, image: int) -> Rows:
    """Reported rows of one image; a row behind them that is no padding counts as one, so that it is noticed."""
    labels = found["labels"][image]
    rows = max(int(found["num_detections"][image]), int(np.flatnonzero(labels >= 0).max(initial=-1)) + 1)
    return Rows(
        boxes=found["boxes"][image, :rows],
        labels=labels[:rows],
        classification_scores=found["classification_scores"][image, :rows],
        localization_scores=found["localization_scores"][image, :rows],
        scores=found["scores"][image, :rows],
    )


def candidate_rows(found: Arrays, image: int) -> Rows:
    """Candidates before suppression of one image of a batch."""
    labels = found["candidate_labels"][image]
    rows = int(np.flatnonzero(labels >= 0).max(initial=-1)) + 1
    return Rows(
        boxes=found["candidate_boxes"][image, :rows],
        labels=labels[:rows],
        classification_scores=found["candidate_classification_scores"][image, :rows],
        localization_scores=found["candidate_localization_scores"][image, :rows],
    )


def as_anchors(candidates: Rows, classes: int) -> Raw:
    """Candidates as anchors of which each has a score for one class only."""
    p = np.zeros((len(candidates.labels), classes), np.float32)
    p[np.arange(len(p)), candidates.labels] = candidates.classification_scores
    return candidates.boxes, p, candidates.localization_scores[:, None]
