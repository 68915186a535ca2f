"""Every single-stage system as a tiny recipe, and a batch to run it on."""

from typing import Any

import torch
from torch import Tensor

from calibox_training.criterion import Criterion, Losses
from calibox_training.models.detector import Detector
from calibox_training.models.heads import HeadOutput
from calibox_training.objects import Objects
from calibox_training.recipe import Recipe
from tests.support.recipes import tiny_recipe

SIZE = (96, 128)
SQUARE = {"base_size": 8, "scales": [1.0], "ratios": [1.0], "offset": 0.0}
DENSE = {
    "model__anchors": SQUARE,
    "model__assigner": {"kind": "atss"},
    "model__pyramid_top": "p5",
    "loss__box": "giou",
    "fusion": {"name": "power", "alpha": 0.3},
}
JOINT = {"loss__classification": "qfl", "loss__joint_alpha": 0.3, "model__quality": {"method": "lqe"}}
DELTA = {"coding": "delta", "centre_deviation": 0.1, "size_deviation": 0.2, "level_scales": True}
# Four of SSD300's maps, and a sixteenth of VGG16.
SSD = {
    "model__backbone": "vgg16",
    "model__backbone_width": 0.0625,
    "model__neck": "ssd",
    "model__head": "single",
    "model__class_activation": "softmax",
    "model__anchors": {
        "kind": "ssd",
        "sizes": [12.0, 24.0, 40.0, 60.0, 80.0],
        "ratios": [[2.0], [2.0, 3.0], [2.0, 3.0], [2.0]],
        "steps": [8.0, 16.0, 32.0, 64.0],
    },
    "model__assigner": {"negative_iou": 0.5, "claims": "first_best"},
    "model__box": {"centre_deviation": 0.1, "size_deviation": 0.2},
    "loss__classification": "softmax",
    "loss__smooth_l1_beta": 1.0,
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "retinanet": {"fusion": {"name": "classification"}, "model__quality": {"method": "none"}},
    "iou_aware": {},
    "iou_aware_code": {"model__quality__detach_target": False},
    "laar": {
        "model__quality": {"method": "laar"},
        "fusion": {"name": "product"},
        "nms__out_score": "classification_clustered",
    },
    "atss": {
        **DENSE,
        "model__box": DELTA,
        "model__quality": {"method": "centerness"},
        "loss__box_weighting": "centerness",
        "fusion": {"name": "product"},
    },
    "qfl": {
        **DENSE,
        "model__box": {"coding": "ltrb"},
        "loss__classification": "qfl",
        "model__quality": {"method": "none"},
        "fusion": {"name": "classification"},
    },
    "clq_unaligned": {**DENSE, **JOINT, "model__box": {"coding": "ltrb", "level_scales": True}},
    "clq_paper": {**DENSE, **JOINT, "model__box": {"coding": "ltrb", "level_scales": True}, "model__align": True},
    "clq": {
        **DENSE,
        **JOINT,
        "model__box": {"coding": "dfl", "level_scales": True},
        "model__align": True,
        "loss__box_weighting": "score",
    },
    "ssd": {**SSD, "model__quality": {"method": "none"}, "fusion": {"name": "classification"}},
    "laar_ssd": {
        **SSD,
        "model__quality": {"method": "laar"},
        "fusion": {"name": "product"},
        "nms__out_score": "classification_clustered",
    },
    "led": {**SSD, "model__quality": {"method": "led", "channels": 8}, "fusion": {"name": "gaussian"}},
    "led_direct": {
        **SSD,
        "model__quality": {"method": "led", "rich_features": False, "coarse_to_fine": False, "sharp_l2": False},
        "fusion": {"name": "product"},
    },
    "clq_atss": {**DENSE, **JOINT, "model__box": DELTA, "model__align": True},
}


def system(name: str, **overrides: Any) -> Recipe:
    """One of `SYSTEMS`, with further overrides."""
    return tiny_recipe(**{**SYSTEMS[name], **overrides})


def batch() -> tuple[Tensor, Objects]:
    """Two images and their objects."""
    images = torch.randint(0, 255, (2, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 50.0]], [[40.0, 20.0, 100.0, 80.0]]])
    return images, Objects(boxes, torch.tensor([[0], [1]]), torch.zeros(2, 1, dtype=torch.bool))


def run(recipe: Recipe) -> tuple[Detector, HeadOutput, Losses]:
    """A fresh detector, what it found in the batch, and its losses."""
    torch.manual_seed(0)
    detector = Detector(recipe.model, classes=2)
    images, objects = batch()
    found = detector(detector.normalise(images))
    return detector, found, Criterion(recipe.model, recipe.loss)(found, detector.anchors(*SIZE), objects)
