"""Where the modules of torchvision's RetinaNet and SSD are in ours, and which rows of their classification layers."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from calibox_core.manifest import ClassInfo
from calibox_training.model_spec import ModelSpec
from calibox_training.models.ssd_layers import CONV4_3

# One of these tells a file apart.
_FAMILIES = {
    "fpn": "head.classification_head.cls_logits.weight",
    "ssd": "head.classification_head.module_list.0.weight",
}
_PLACES = (
    (re.compile(r"^backbone\.body\."), "backbone."),
    (re.compile(r"^backbone\.fpn\."), "fpn."),
    (re.compile(r"^head\.classification_head\.cls_logits\."), "head.class_conv."),
    (re.compile(r"^head\.regression_head\.bbox_reg\."), "head.box_conv."),
    # Of SSD; its first extra block holds the rest of VGG16 besides the layers that were fully connected.
    (re.compile(r"^backbone\.scale_weight$"), "ssd.scale"),
    (re.compile(r"^backbone\.extra\.0\.7\.1\."), "ssd.fc6."),
    (re.compile(r"^backbone\.extra\.0\.7\.3\."), "ssd.fc7."),
    (re.compile(r"^head\.classification_head\.module_list\."), "head.class_convs."),
    (re.compile(r"^head\.regression_head\.module_list\."), "head.box_convs."),
)
_EXTRA = re.compile(r"^backbone\.extra\.(\d+)\.(\d+)\.(weight|bias)$")
# A layer of a tower: `conv.0.weight` in the oldest files, every second number; else `conv.0.0.weight`, with the
# normalisation as `conv.0.1.weight`.
_TOWER = re.compile(r"^head\.(classification|regression)_head\.conv\.(\d+)\.(?:(\d)\.)?(weight|bias)$")
_TOWERS = {"classification": "class_tower", "regression": "box_tower"}
_CLASS_LAYER = re.compile(r"^head\.class_conv(?:s\.(\d+))?\.(?:weight|bias)$")


def translate(state: Mapping[str, Tensor], spec: ModelSpec, classes: Sequence[ClassInfo]) -> dict[str, Tensor]:
    """A state dict of torchvision's in our names, with the data set's classes alone.

    Args:
        state: of torchvision's RetinaNet or SSD.
        spec: of the detector that takes it.
        classes: the data set's; they tell which rows of the classification layers to take.

    Raises:
        ValueError: it is of neither, of the other one, or its labels are not the data set's.
    """
    family = next((neck for neck, name in _FAMILIES.items() if name in state), None)
    if family is None:
        raise ValueError(
            "holds neither a checkpoint of `calibox train` nor the state dict of torchvision's RetinaNet or SSD"
        )
    if family != spec.neck:
        kinds = {"fpn": "RetinaNet", "ssd": "SSD"}
        raise ValueError(f"is of torchvision's {kinds[family]}; the recipe's model is {kinds[spec.neck]} (neck)")
    step = 2 if spec.norm == "none" else 3  # convolution, normalisation if any, activation
    found = {_our_name(name, step=step): value for name, value in state.items()}
    for name, value in found.items():
        layer = _CLASS_LAYER.match(name)
        level = int(layer[1] or 0) if layer else len(spec.anchors.per_level)
        if level < len(spec.anchors.per_level):
            background = spec.class_activation == "softmax"
            found[name] = _class_rows(value, spec.anchors.per_level[level], classes, background=background)
    return found


def _our_name(name: str, *, step: int) -> str:
    tower = _TOWER.match(name)
    if tower:
        kind, layer, part, value = tower.groups()
        place = int(layer) // 2 * step if part is None else int(layer) * step + int(part)
        return f"head.{_TOWERS[kind]}.{place}.{value}"
    extra = _EXTRA.match(name)
    if extra:
        block, place, value = int(extra[1]), int(extra[2]), extra[3]
        return (
            f"ssd.layers.{block - 1}.{place}.{value}" if block else f"backbone.features.{CONV4_3 + 1 + place}.{value}"
        )
    for pattern, replacement in _PLACES:
        name = pattern.sub(replacement, name)
    return name


def _class_rows(layer: Tensor, anchors: int, classes: Sequence[ClassInfo], *, background: bool) -> Tensor:
    """The rows of the data set's classes from a layer that has some for each of torchvision's labels."""
    labels, left = divmod(layer.shape[0], anchors)
    if left:
        raise ValueError(f"has a classification layer of {layer.shape[0]} rows, no multiple of {anchors} anchors")
    by_label = layer.reshape(anchors, labels, *layer.shape[1:])[:, [0] * background + label_rows(labels, classes)]
    return by_label.reshape(-1, *layer.shape[1:])


def label_rows(labels: int, classes: Sequence[ClassInfo]) -> list[int]:
    """Which of torchvision's labels are the data set's classes, in their order; label 0 is the background.

    Labels are 1, 2, ... where there is one more than classes, else category ids, as COCO's 91 with their gaps.

    Raises:
        ValueError: neither fits.
    """
    ids = [c.category_id for c in classes]
    if labels == len(ids) + 1:
        return list(range(1, labels))
    if ids and min(ids) > 0 and max(ids) < labels:
        return ids
    raise ValueError(
        f"tells {labels} labels apart, the background included; the data set has {len(ids)} classes "
        f"with category ids {min(ids, default=0)} to {max(ids, default=0)}, and neither fits"
    )
