"""From classification logits to probabilities: one definition for evaluation, export and measurements.

Letters: B images, A anchors, C classes.
"""

from typing import Literal

from torch import Tensor


def class_scores(class_BAC: Tensor, activation: Literal["sigmoid", "softmax"]) -> Tensor:
    """Classification scores, float32 ``[B, A, C]`` in 0..1.

    Args:
        class_BAC: logits; with softmax one column more, the background, in front.
        activation: of the recipe's model.
    """
    if activation == "sigmoid":
        return class_BAC.float().sigmoid()
    return class_BAC.float().softmax(dim=-1)[..., 1:]
