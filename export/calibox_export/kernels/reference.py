"""The numpy reference of core with the operator's interface: a batch in, ten padded outputs out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.fusion import Exponents
from calibox_core.nms import Candidates, Detections, NmsAttributes, OutScore, calibrated_nms, select_candidates
from calibox_export.kernels.library import INTEGER_OUTPUTS, Attributes, output_shapes


def padded_reference(inputs: Mapping[str, NDArray[Any]], attributes: Attributes) -> dict[str, NDArray[Any]]:
    """All outputs by name, in the order of `library.OUTPUT_NAMES`.

    Args:
        inputs: by `library.INPUT_NAMES`, float32, with the batch as first axis.
        attributes: of the operator.
    """
    checked = NmsAttributes(
        out_score=OutScore(attributes.out_score),
        class_agnostic=attributes.class_agnostic,
        candidate_floor=attributes.candidate_floor,
        pre_nms_top_k=attributes.pre_nms_top_k,
        max_detections=attributes.max_detections,
    )
    outputs = _padding(len(inputs["p"]), checked)
    for image in range(len(inputs["p"])):
        found, detected = _one_image({name: values[image] for name, values in inputs.items()}, checked)
        _fill(outputs, image, "candidate_", found)
        _fill(outputs, image, "", detected)
        outputs["scores"][image, : len(detected.scores)] = detected.scores
        outputs["num_detections"][image] = len(detected.scores)
    return outputs


def _padding(batch: int, attributes: NmsAttributes) -> dict[str, NDArray[Any]]:
    return {
        name: np.full(shape, -1 if name.endswith("labels") else 0, np.int32 if name in INTEGER_OUTPUTS else np.float32)
        for name, shape in output_shapes(batch, attributes).items()
    }


def _one_image(one: Mapping[str, NDArray[Any]], attributes: NmsAttributes) -> tuple[Candidates, Detections]:
    exponents = Exponents(*one["fusion"].tolist())
    found = select_candidates(one["boxes"], one["p"], one["q"], exponents, attributes)
    detected = calibrated_nms(
        one["boxes"],
        one["p"],
        one["q"],
        exponents=exponents,
        score_threshold=float(one["score_threshold"]),
        iou_threshold=float(one["iou_threshold"]),
        attributes=attributes,
    )
    return found, detected


def _fill(outputs: Mapping[str, NDArray[Any]], image: int, prefix: str, rows: Candidates | Detections) -> None:
    for name in ("boxes", "labels", "classification_scores", "localization_scores"):
        values = getattr(rows, name)
        outputs[prefix + name][image, : len(values)] = values
