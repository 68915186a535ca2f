"""Full-size detectors without their published weights, on an input that a test can afford."""

import torch
from torch import Tensor

from calibox_training.models.detector import Detector
from calibox_training.recipe import Recipe, with_overrides
from tests.support.systems import SIZE

BASELINES = ("resnet18", "resnet50", "resnet101", "resnext101_32x8d", "resnext101_64x4d")
EVERY_ANCHOR = 100_000  # SSD512 has 24564


def reduced(recipe: Recipe) -> Recipe:
    """The recipe from scratch at the size of the systems' batch; SSD, whose maps follow from its input, at its own."""
    ssd = recipe.model.neck == "ssd"
    height, width = (recipe.input.height, recipe.input.width) if ssd else SIZE
    return with_overrides(
        recipe,
        {
            "input": {"height": height, "width": width},
            "model.backbone_weights": "none",
            "augmentation.sizes": [],
            # A softmax of random weights ties at 1, so that no last place of a level would be sure: none is cut.
            "per_level_top_k": EVERY_ANCHOR if ssd else None,
        },
    )


def settle(detector: Detector, *, height: int, width: int) -> None:
    """Batch-norm statistics of random pictures: a fresh backbone has none, and a deep one overflows without them."""
    generator = torch.Generator().manual_seed(0)
    settle_on(detector, torch.randint(0, 255, (2, height, width, 3), dtype=torch.uint8, generator=generator))


def settle_on(detector: Detector, images_BHW3: Tensor) -> None:
    """Batch-norm statistics of these pictures, uint8."""
    norms = [module for module in detector.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    epsilons = [norm.eps for norm in norms]
    for norm in norms:
        norm.momentum, norm.eps = 1.0, 1e-5  # torch takes no statistics with an epsilon of 0
    detector.backbone.train()
    with torch.no_grad():
        detector.backbone(detector.normalise(images_BHW3))
    for norm, epsilon in zip(norms, epsilons, strict=True):
        norm.eps = epsilon
