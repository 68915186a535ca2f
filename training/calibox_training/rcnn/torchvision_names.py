"""Where the modules of torchvision's Faster and Mask R-CNN are in ours, and which rows of their last layers."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from calibox_core.manifest import ClassInfo
from calibox_training.init_from import fill_from
from calibox_training.rcnn.detector import RcnnDetector
from calibox_training.torchvision_names import label_rows

# One of a two-stage detector's layers and of no other detector's.
_MARK = "rpn.head.cls_logits.weight"
# The published files are older than torchvision's blocks of convolution, normalisation and activation.
_PLACES = (
    (re.compile(r"^backbone\.body\."), "backbone."),
    (re.compile(r"^backbone\.fpn\.(\w+)_blocks\.(\d+)\.(?=weight|bias)"), r"fpn.\1_blocks.\2.0."),
    (re.compile(r"^backbone\.fpn\."), "fpn."),
    (re.compile(r"^rpn\.head\.conv\.(?=weight|bias)"), "rpn.head.conv.0.0."),
)
_OLD_MASK_LAYER = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d)\.")
# Layers with rows for each label, and how many.
_ROWS = {"cls_score": 1, "bbox_pred": 4, "mask_fcn_logits": 1}
_CLASS_LAYER = re.compile(rf"^roi_heads\.\w+\.({'|'.join(_ROWS)})\.")


def initialise_rcnn(detector: RcnnDetector, path: Path, classes: Sequence[ClassInfo]) -> tuple[str, ...]:
    """Fills a detector from a file, in place.

    Args:
        detector: as its recipe built it.
        path: a state dict of torchvision's Faster or Mask R-CNN, or a checkpoint of `calibox train`.
        classes: the data set's; they tell which rows of torchvision's last layers to take.

    Returns: names of parameters and buffers that the file does not have, or that it has for other classes or another
        head; they stay as they were.

    Raises:
        CheckpointError: the file cannot be read, or its backbone, FPN or proposals do not fit the recipe's model.
    """
    return fill_from(detector, path, partial(_translate, detector=detector, classes=classes))


def _translate(state: Mapping[str, Tensor], detector: RcnnDetector, classes: Sequence[ClassInfo]) -> dict[str, Tensor]:
    """A state dict of torchvision's in our names; of the heads what fits.

    Raises:
        ValueError: it is of another model.
    """
    if _MARK not in state:
        raise ValueError(
            "holds neither a checkpoint of `calibox train` nor the state dict of torchvision's Faster or Mask R-CNN"
        )
    named = {_our_name(name): value for name, value in state.items()}
    found = {name: _of_classes(name, value, classes) for name, value in named.items()}
    own = detector.state_dict()
    return {
        name: value
        for name, value in found.items()
        if not name.startswith("roi_heads.") or (name in own and own[name].shape == value.shape)
    }


def _our_name(name: str) -> str:
    for pattern, replacement in _PLACES:
        name = pattern.sub(replacement, name)
    return _OLD_MASK_LAYER.sub(lambda found: f"roi_heads.mask_head.{int(found[1]) - 1}.0.", name)


def _of_classes(name: str, layer: Tensor, classes: Sequence[ClassInfo]) -> Tensor:
    """Of a layer with rows for each label those of the background and of the data set's classes, if it has them."""
    found = _CLASS_LAYER.match(name)
    if found is None:
        return layer
    each = _ROWS[found[1]]
    try:
        rows = label_rows(layer.shape[0] // each, classes)
    except ValueError:  # other classes: the layer does not fit, and its module starts at random
        return layer
    return layer.reshape(-1, each, *layer.shape[1:])[[0, *rows]].flatten(0, 1)
