"""A recipe small enough to train within a test, and the names of those that ship."""

from typing import Any

from calibox_training.recipe import (
    BUILTIN_RECIPES,
    Recipe,
    kind_of,
    parse_recipe,
    read_document,
    with_overrides,
)


def shipped(kind: str | None = None) -> list[str]:
    """Names of the recipes of one kind that ship; single-stage ones have none."""
    names = sorted(path.stem for path in BUILTIN_RECIPES.glob("*.yaml"))
    return [name for name in names if kind_of(read_document(name)[0]) == kind]


def tiny_recipe(**overrides: Any) -> Recipe:
    """MobileNetV3, 96x128 input; keys of `overrides` are dotted paths with `__` for the dot."""
    recipe = parse_recipe(
        {
            "name": "tiny",
            "data": {"name": "rectangles", "license": "CC0-1.0"},
            "input": {"height": 96, "width": 128},
            "model": {"backbone": "mobilenet_v3_large", "fpn_channels": 16, "tower_depth": 1, "norm": "group"},
            "schedule": {
                "optimizer": "adamw",
                "learning_rate": 0.002,
                "epochs": 2,
                "batch_size": 4,
                "warmup_iterations": 2,
                "decay": "cosine",
                "milestones": [],
            },
            "per_level_top_k": 100,
            "nms": {"pre_nms_top_k": 100, "max_detections": 20},
        },
        source="the tiny recipe",
    )
    return with_overrides(recipe, {key.replace("__", "."): value for key, value in overrides.items()})
