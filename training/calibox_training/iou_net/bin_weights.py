"""What each pixel of a map weighs in the mean of its bilinear surface over a bin, along one axis, and the slopes of it.

The surface along an axis is a sum of hat functions, hat(t) = max(0, 1 - |t|), one around every pixel; pixel i sits at
coordinate i. A bin's weight of a pixel is the mean of its hat over the bin. Source: IoU-Net, arXiv 1807.11590,
eq. 2 to 4; the surface is a product over the axes, so its integral over a rectangle is a product as well.

Letters: R RoIs, K bins along the axis, N pixels of a window.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Spans(NamedTuple):
    """RoIs along one axis of their maps, in pixels of these."""

    low_R: Tensor
    side_R: Tensor
    first_R: Tensor  # int64, first pixel of the window
    count_R: Tensor  # int64, pixels that weigh anything; 0 outside the map, and where the side is not positive

    def take(self, rows: Tensor) -> "Spans":
        """The RoIs at these positions."""
        return Spans(*(value[rows] for value in self))

    def within(self, size: int, pixels: int) -> "Spans":
        """Windows of so many pixels, moved back where they would reach over the end of the map."""
        return self._replace(first_R=self.first_R.clamp(max=size - pixels))


def spans(low_R: Tensor, high_R: Tensor, size: int) -> Spans:
    """The smallest windows that hold every pixel with a weight above 0.

    Args:
        low_R, high_R: coordinates of the RoIs; one that is NaN touches nothing.
        size: pixels of the map along this axis.
    """
    # A hat reaches one pixel to either side. Bounded before they become integers, which cannot hold every float.
    first_R = low_R.floor().clamp(0, size - 1).long()
    end_R = high_R.ceil().clamp(-1, size - 1).long()
    count_R = (end_R - first_R + 1).clamp(min=0) * (high_R > low_R)
    return Spans(low_R, high_R - low_R, first_R, count_R)


def bin_weights(along: Spans, bins: int, pixels: int) -> Tensor:
    """Weights ``[R, K, N]`` of the pixels first, first + 1, ... in each bin; at least 0, with a sum of at most 1."""
    low_RKN, high_RKN = _bins(along, bins, pixels)
    length_RKN = high_RKN - low_RKN
    used_RKN = length_RKN > 0
    mean_RKN = _hat_integral(low_RKN, high_RKN) / torch.where(used_RKN, length_RKN, 1)
    return torch.where(used_RKN, mean_RKN, 0)


def bin_weight_slopes(along: Spans, weights_RKN: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of `bin_weights` by a bin's lower and upper edge, two of ``[R, K, N]``.

    With w the mean of the hat over [a, b]: dw/da = (w - hat(a)) / (b - a) and dw/db = (hat(b) - w) / (b - a).
    """
    low_RKN, high_RKN = _bins(along, *weights_RKN.shape[1:])
    length_RKN = high_RKN - low_RKN
    used_RKN = length_RKN > 0
    safe_RKN = torch.where(used_RKN, length_RKN, 1)
    by_low_RKN = (weights_RKN - _hat(low_RKN)) / safe_RKN
    by_high_RKN = (_hat(high_RKN) - weights_RKN) / safe_RKN
    # A hat is nowhere steeper than 1, so its mean differs from an end by at most half of the length: what is steeper
    # is rounding in a very short bin.
    low_RKN, high_RKN = (torch.where(used_RKN, slope.clamp(-0.5, 0.5), 0) for slope in (by_low_RKN, by_high_RKN))
    return low_RKN, high_RKN


def span_gradients(along: Spans, weights_RKN: Tensor, gradient_RKN: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients ``[R]`` of the RoIs' lower and upper coordinate from that of their weights.

    Edge k of K bins lies at low + (high - low) * k / K.
    """
    by_low_RKN, by_high_RKN = bin_weight_slopes(along, weights_RKN)
    lower_RK = (gradient_RKN * by_low_RKN).sum(dim=2)
    upper_RK = (gradient_RKN * by_high_RKN).sum(dim=2)
    bins = lower_RK.shape[1]
    share_K = torch.arange(bins + 1, dtype=lower_RK.dtype, device=lower_RK.device) / bins
    high_R = (lower_RK * share_K[:-1] + upper_RK * share_K[1:]).sum(dim=1)
    return lower_RK.sum(dim=1) + upper_RK.sum(dim=1) - high_R, high_R


def _bins(along: Spans, bins: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Lower and upper edges of the bins, seen from each pixel of the window, ``[R, K, N]``."""
    kind, device = along.low_R.dtype, along.low_R.device
    # Counted from the window's first pixel, small numbers lose least.
    start_R1 = (along.low_R - along.first_R)[:, None]
    share_K = torch.arange(bins + 1, dtype=kind, device=device) / bins
    edges_RK = start_R1 + along.side_R[:, None] * share_K
    from_pixel_RKN = edges_RK[:, :, None] - torch.arange(pixels, dtype=kind, device=device)
    return from_pixel_RKN[:, :-1], from_pixel_RKN[:, 1:]


def _hat(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _hat_integral(low: Tensor, high: Tensor) -> Tensor:
    """Integral of the hat from ``low`` to ``high``: the trapezoids left and right of its top.

    Differences of its antiderivative would cancel in short bins.
    """
    left_low, left_high = low.clamp(-1, 0), high.clamp(-1, 0)
    right_low, right_high = low.clamp(0, 1), high.clamp(0, 1)
    left = (left_high - left_low) * (1 + (left_low + left_high) / 2)
    return left + (right_high - right_low) * (1 - (right_low + right_high) / 2)
