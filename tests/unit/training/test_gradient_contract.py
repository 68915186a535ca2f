"""Which modules a loss teaches, and which it must leave alone: exact zeros, a row per system."""

import pytest
import torch
from torch import nn

from calibox_training.criterion import Criterion
from calibox_training.models.detector import Detector
from tests.support.systems import SIZE, batch, run, system

HEAD_PARTS = (
    "class_conv",
    "class_tower",
    "box_conv",
    "box_tower",
    "quality_conv",
    "quality_tower",
    "class_convs",
    "box_convs",
    "quality_convs",
)
BELOW = {"fpn", "backbone"}
# system, loss, parts of the detector that its gradient reaches; all others stay exactly 0
CONTRACT = [
    ("retinanet", "classification", {"class_conv", "class_tower"} | BELOW),
    ("retinanet", "box", {"box_conv", "box_tower"} | BELOW),
    ("iou_aware", "quality", {"quality_conv", "box_tower"} | BELOW),
    ("iou_aware_code", "quality", {"quality_conv", "box_tower", "box_conv"} | BELOW),
    ("iou_aware", "classification", {"class_conv", "class_tower"} | BELOW),
    ("laar", "quality", {"quality_conv", "quality_tower"} | BELOW),
    ("laar", "classification", {"class_conv", "class_tower"} | BELOW),
    ("laar", "box", {"box_conv", "box_tower"} | BELOW),
    ("atss", "quality", {"quality_conv", "box_tower"} | BELOW),
    ("atss", "box", {"box_conv", "box_tower"} | BELOW),
    ("qfl", "classification", {"class_conv", "class_tower"} | BELOW),
    ("clq_unaligned", "quality", {"quality_conv", "box_tower"} | BELOW),
    ("clq_unaligned", "classification", {"class_conv", "class_tower", "quality_conv", "box_tower"} | BELOW),
    # Through the offsets, and only through them, the aligned variants reach the box branch.
    ("clq", "quality", {"quality_conv", "class_tower", "offset", "align", "box_conv", "box_tower"} | BELOW),
    (
        "clq",
        "classification",
        {"class_conv", "quality_conv", "class_tower", "offset", "align", "box_conv", "box_tower"} | BELOW,
    ),
    ("clq", "box", {"box_conv", "box_tower"} | BELOW),
    ("clq_paper", "box", {"box_conv", "box_tower"} | BELOW),
    ("clq_paper", "quality", {"quality_conv", "class_tower", "offset", "align", "box_conv", "box_tower"} | BELOW),
    ("clq_atss", "quality", {"quality_conv", "class_tower", "offset", "align", "box_conv", "box_tower"} | BELOW),
    ("ssd", "classification", {"class_convs", "ssd", "backbone"}),
    ("ssd", "box", {"box_convs", "ssd", "backbone"}),
    ("laar_ssd", "quality", {"quality_convs", "ssd", "backbone"}),
    ("laar_ssd", "classification", {"class_convs", "ssd", "backbone"}),
    ("laar_ssd", "box", {"box_convs", "ssd", "backbone"}),
    # Through the class and box maps, which LED reads; without them its targets would not reach the boxes.
    ("led", "quality", {"quality_convs", "class_convs", "box_convs", "ssd", "backbone"}),
    ("led", "classification", {"class_convs", "ssd", "backbone"}),
    ("led", "box", {"box_convs", "ssd", "backbone"}),
    ("led_direct", "quality", {"quality_convs", "ssd", "backbone"}),
]
# Branches that read features without a gradient: their loss stays inside them.
DETACHED = [
    ("iou_aware", {"quality_conv"}),
    ("laar", {"quality_conv", "quality_tower"}),
    ("atss", {"quality_conv"}),
    ("clq_unaligned", {"quality_conv"}),
    ("clq", {"quality_conv"}),
    ("laar_ssd", {"quality_convs"}),
    ("led", {"quality_convs"}),
]


def _parts(detector: Detector) -> dict[str, nn.Module | None]:
    align = getattr(detector.head, "align", None)
    outside = {
        "offset": None if align is None else align.offset,
        "align": None if align is None else align.conv,
        "fpn": detector.fpn,
        "ssd": detector.ssd,
        "backbone": detector.backbone,
    }
    return outside | {name: getattr(detector.head, name, None) for name in HEAD_PARTS}


def _reached(detector: Detector) -> set[str]:
    return {
        name
        for name, part in _parts(detector).items()
        if part is not None and any(p.grad is not None and bool((p.grad != 0).any()) for p in part.parameters())
    }


@pytest.mark.parametrize(
    ("name", "loss", "reaches"), CONTRACT, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_loss_reaches_these_parts_and_no_other(name: str, loss: str, reaches: set[str]) -> None:
    detector, _, losses = run(system(name))
    getattr(losses, loss).backward()
    assert _reached(detector) == reaches


@pytest.mark.parametrize(("name", "reaches"), DETACHED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_branch_with_detached_features_keeps_its_loss_to_itself(name: str, reaches: set[str]) -> None:
    detector, _, losses = run(system(name, model__quality__feature_detach=True))
    losses.quality.backward()
    assert _reached(detector) == reaches


@pytest.mark.parametrize("name", ["clq", "clq_paper", "clq_atss", "clq_unaligned"])
def test_clqs_targets_carry_no_gradient(name: str) -> None:
    """With the offsets cut, what is left of the classification and quality losses does not move the boxes."""
    recipe = system(name)
    torch.manual_seed(0)
    detector = Detector(recipe.model, classes=2)
    if detector.head.align is not None:
        torch.nn.init.zeros_(detector.head.align.offset.weight)
    images, objects = batch()
    losses = Criterion(recipe.model, recipe.loss)(
        detector(detector.normalise(images)), detector.anchors(*SIZE), objects
    )
    (losses.classification + losses.quality).backward()
    gradient = detector.head.box_conv.weight.grad
    assert gradient is None or bool((gradient == 0).all())


def test_clqs_joint_loss_teaches_quality_on_background_too() -> None:
    recipe = system("clq_paper")
    _, found, losses = run(recipe)
    assert found.quality_BAQ is not None
    found.quality_BAQ.retain_grad()
    losses.classification.backward()
    assert found.quality_BAQ.grad is not None
    assert (found.quality_BAQ.grad != 0).all()


def test_box_weights_carry_no_gradient() -> None:
    _, found, losses = run(system("clq"))
    found.class_BAC.retain_grad()
    losses.box.backward()
    assert found.class_BAC.grad is None
