"""Two-stage recipes small enough to train within a test."""

from typing import Any

from calibox_training.rcnn.recipe import RcnnRecipe, parse_rcnn
from calibox_training.recipe import with_overrides

BRANCH = {"predictor": {"width": 32, "initialisation": "he"}, "jitter": {"per_image": 32}}
STANDARD_NMS = {"fusion": {"name": "classification"}, "nms": {"candidate_floor": 0.05, "out_score": "classification"}}


def tiny_rcnn(detector: str = "faster", *, branch: bool = True, **overrides: Any) -> RcnnRecipe:
    """A quarter of ResNet-18 at 96x128; keys of `overrides` are dotted paths with `__` for the dot."""
    recipe = parse_rcnn(
        {
            "kind": "rcnn",
            "name": "tiny-rcnn",
            "data": {"name": "rectangles", "license": "CC0-1.0"},
            "input": {"height": 96, "width": 128},
            "model": {
                "detector": detector,
                "backbone": "resnet18",
                "backbone_width": 0.25,
                "fpn_channels": 16,
                "anchor_sizes": [16, 24, 32, 48, 64],
                "box_head_width": 32,
                "mask_channels": 16,
                "proposals": {
                    "before_nms": 100,
                    "after_nms": 50,
                    "before_nms_training": 100,
                    "after_nms_training": 50,
                },
                "rois": {"per_image": 32},
                "iou_branch": BRANCH if branch else None,
            },
            "schedule": {
                "optimizer": "adamw",
                "learning_rate": 0.002,
                "epochs": 2,
                "batch_size": 4,
                "warmup_iterations": 2,
                "decay": "cosine",
            },
            **({} if branch else STANDARD_NMS),
        },
        source="the tiny two-stage recipe",
    )
    return with_overrides(recipe, {key.replace("__", "."): value for key, value in overrides.items()})
