"""LED's estimation of overlaps on one level of a single-stage head. Source: Zhang et al., LED, section 2.3, Fig. 3.

Letters: B images, F channels of the level, M those of the class map, N those of the box map, Q values per anchor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibox_training.models.ssd_layers import xavier
from calibox_training.quality_spec import LedQuality

CONTEXT_DILATION = 2  # ours, as the channel counts are: the paper gives neither
# Of fresh estimates: they start near the middles of the ranges, because Sharp-L2 grows with the cube of an error.
FIRST_STD = 0.001


class RicherFeatures(nn.Module):
    """The level's feature beside what its class map, its box map and its surroundings say."""

    def __init__(self, features: int, class_values: int, box_values: int, channels: int) -> None:
        super().__init__()
        self.from_class = nn.Conv2d(class_values, channels, 3, padding=1)
        self.from_box = nn.Conv2d(box_values, channels, 3, padding=1)
        self.base = nn.Conv2d(features, 2 * channels, 1)
        self.context = nn.Conv2d(features, 2 * channels, 3, padding=CONTEXT_DILATION, dilation=CONTEXT_DILATION)
        self.channels = 6 * channels

    def forward(self, feature: Tensor, class_map: Tensor, box_map: Tensor) -> Tensor:
        """``[B, F, H, W], [B, M, H, W], [B, N, H, W] -> [B, 6 * channels, H, W]``."""
        parts = (
            F.relu(self.from_class(class_map)),
            F.relu(self.from_box(box_map)),
            self.base(feature),
            F.relu(self.context(feature)),
        )
        return torch.cat(parts, dim=1)


class LocalizationEstimation(nn.Module):
    """The raw estimates of one level's anchors.

    The paper's parallel coarse and fine maps of the three overlaps are the channels of one convolution here.
    """

    def __init__(self, features: int, class_values: int, box_values: int, anchors: int, spec: LedQuality) -> None:
        super().__init__()
        self.richer = RicherFeatures(features, class_values, box_values, spec.channels) if spec.rich_features else None
        width = features if self.richer is None else self.richer.channels
        self.estimate = nn.Conv2d(width, anchors * spec.values, 3, padding=1)
        self.apply(xavier)
        nn.init.normal_(self.estimate.weight, std=FIRST_STD)

    def forward(self, feature: Tensor, class_map: Tensor, box_map: Tensor) -> Tensor:
        """``[B, F, H, W], [B, M, H, W], [B, N, H, W] -> [B, anchors * Q, H, W]``; gradients reach all three maps."""
        seen = feature if self.richer is None else self.richer(feature, class_map, box_map)
        estimate: Tensor = self.estimate(seen)
        return estimate
