"""Deformable convolution from portable parts, and CLQ's feature alignment that it serves.

Letters: B images, F channels, K taps of a kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibox_training.box_coder import BoxCoder

KERNEL = 3
TAPS = KERNEL * KERNEL
# Offsets are shared within each of four groups of channels (CLQ's code).
OFFSET_GROUPS = 4


def deform_conv3x3(maps: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """What `torchvision.ops.deform_conv2d` computes with a 3x3 kernel, padding 1 and no bias, through `grid_sample`.

    Standard operators only: every ONNX runtime and every half precision has them.

    Args:
        maps: ``[B, F, H, W]``.
        offset: ``[B, groups * 9 * 2, H, W]`` in pixels of the map; per group and tap y, then x.
        weight: ``[O, F, 3, 3]``.

    Returns: ``[B, O, H, W]``. Positions outside the map read 0.
    """
    _, channels, height, width = maps.shape
    groups = offset.shape[1] // (2 * TAPS)
    y, x = offset.float().reshape(-1, groups, TAPS, 2, height, width).unbind(dim=3)
    tap = torch.arange(TAPS, device=maps.device, dtype=torch.float32).view(TAPS, 1, 1)
    row = torch.arange(height, device=maps.device, dtype=torch.float32).view(height, 1)
    column = torch.arange(width, device=maps.device, dtype=torch.float32)
    y = y + torch.div(tap, KERNEL, rounding_mode="floor") - 1 + row
    x = x + torch.remainder(tap, KERNEL) - 1 + column
    # Pixel centres in grid_sample's coordinates without aligned corners, which also hold for a map one pixel wide.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    sampled = F.grid_sample(
        maps.float().reshape(-1, channels // groups, height, width),
        grid.reshape(-1, TAPS * height, width, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    columns = sampled.reshape(-1, channels * TAPS, height, width).to(maps.dtype)
    return F.conv2d(columns, weight.reshape(weight.shape[0], channels * TAPS, 1, 1))


class FeatureAlignment(nn.Module):
    """Moves a deformable convolution's taps by a learnt linear map of the regressed distances (CLQ, section III-C).

    Gradients reach the distances, as in the authors' code.
    """

    anchor_4: Tensor

    def __init__(self, channels: int, coder: BoxCoder, anchor_4: Tensor) -> None:
        super().__init__()
        self.coder = coder
        self.offset = nn.Conv2d(4, OFFSET_GROUPS * TAPS * 2, 1, bias=False)
        self.conv = nn.Conv2d(channels, channels, KERNEL, padding=1, bias=False)
        self.register_buffer("anchor_4", anchor_4, persistent=False)

    def forward(self, level: Tensor, code: Tensor) -> Tensor:
        """Aligned features.

        Args:
            level: ``[B, F, H, W]``.
            code: ``[B, V, H, W]`` of the one box at each position.
        """
        values = code.permute(0, 2, 3, 1)
        box = self.coder.decode(values, self.anchor_4, torch.ones_like(values[..., 0], dtype=torch.float32))
        distances = torch.cat([-box[..., :2], box[..., 2:]], dim=-1).permute(0, 3, 1, 2)
        return F.relu(deform_conv3x3(level, self.offset(distances), self.conv.weight))
