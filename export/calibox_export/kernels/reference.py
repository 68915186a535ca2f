"""The numpy reference of core with the operator's interface: a batch in, ten padded outputs out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.ranking import Exponents
from calibox_core.suppression import Attributes, Candidates, Detections, calibrated_nms, select_candidates
from calibox_export.kernels.library import INTEGER_OUTPUTS, output_shapes


def padded_reference(inputs: Mapping[str, NDArray[Any]], attributes: Attributes) -> dict[str, NDArray[Any]]:
    """All outputs by name, in the order of `library.OUTPUT_NAMES`.

    Args:
        inputs: by `library.INPUT_NAMES`, float32, with the batch as first axis.
        attributes: of the operator.
    """
    outputs = _padding(len(inputs["p"]), attributes)
    for image in range(len(inputs["p"])):
        found, detected = _one_image({name: values[image] for name, values in inputs.items()}, attributes)
        _fill(outputs, image, "candidate_", found)
        _fill(outputs, image, "", detected)
        outputs["scores"][image, : len(detected.scores)] = detected.scores
        outputs["num_detections"][image] = len(detected.scores)
    return outputs


def _padding(batch: int, attributes: Attributes) -> dict[str, NDArray[Any]]:
    return {
        name: np.full(shape, -1 if name.endswith("labels") else 0, np.int32 if name in INTEGER_OUTPUTS else np.float32)
        for name, shape in output_shapes(batch, attributes).items()
    }


def _one_image(one: Mapping[str, NDArray[Any]], attributes: Attributes) -> tuple[Candidates, Detections]:
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
