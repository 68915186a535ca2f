"""Three overlaps of a detection, their coarse-to-fine code, and the one score that is read from it.

The overlaps, in this order everywhere: IoD, the share of the detection that its object covers; IoG, the share of the
object that the detection covers; IoU. Source: Zhang et al., LED, sections 2.3 and 2.5.

Letters: B images, A anchors, Q values per anchor, V the three overlaps, K value ranges.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from calibox_training.quality_spec import LedQuality

OVERLAPS = 3  # V
# Value ranges of the coarse step: background, low, middle, high (section 2.3). A value on an edge is in the upper one.
RANGE_EDGES = (0.1, 0.4, 0.7)
# Middles and half widths of those ranges: the "anchors" of the fine step and, decided here, its units. Without units no
# error of a value in 0..1 would reach 1, where Sharp-L2 begins to differ from L2.
RANGE_MIDDLES = (0.05, 0.25, 0.55, 0.85)
RANGE_HALVES = (0.05, 0.15, 0.15, 0.15)
IOU_SHARE = 0.6  # lambda of section 2.5: the rest is the IoU that follows from IoD and IoG


class Estimate(NamedTuple):
    """What the branch says of every overlap, raw, float32."""

    coarse_BAVK: Tensor  # logits of the ranges
    fine_BAVK: Tensor  # value relative to each range's middle, in half widths


class RangeUnits(NamedTuple):
    """Where the fine values count from, and in what unit, float32 ``[K]``."""

    middle_K: Tensor
    half_K: Tensor


def read_estimate(spec: LedQuality, raw_BAQ: Tensor) -> Estimate:
    """The branch's values by their meaning.

    Direct regression is the same with one range, 0 to 1, whose probability is 1.
    """
    raw_BAQ = raw_BAQ.float()
    if not spec.coarse_to_fine:
        return Estimate(torch.zeros_like(raw_BAQ)[..., None], raw_BAQ[..., None])
    parts = raw_BAQ.reshape(*raw_BAQ.shape[:-1], OVERLAPS, 2, len(RANGE_MIDDLES))
    return Estimate(parts[..., 0, :], parts[..., 1, :])


def range_units(spec: LedQuality, device: torch.device) -> RangeUnits:
    """Of the four ranges, or of the one from 0 to 1."""
    middles, halves = (RANGE_MIDDLES, RANGE_HALVES) if spec.coarse_to_fine else ((0.5,), (0.5,))
    return RangeUnits(torch.tensor(middles, device=device), torch.tensor(halves, device=device))


def value_range(overlap: Tensor) -> Tensor:
    """The range, int64 in 0..3, of overlaps of any shape."""
    return torch.bucketize(overlap, torch.tensor(RANGE_EDGES, device=overlap.device), right=True)


def expected_overlaps(spec: LedQuality, raw_BAQ: Tensor) -> Tensor:
    """The estimated overlaps ``[B, A, V]`` in 0..1. Source: LED, eq. 1."""
    estimate, units = read_estimate(spec, raw_BAQ), range_units(spec, raw_BAQ.device)
    value_BAVK = units.middle_K + units.half_K * estimate.fine_BAVK
    return (estimate.coarse_BAVK.softmax(dim=-1) * value_BAVK).sum(dim=-1).clamp(0, 1)


def derived_iou(iod: Tensor, iog: Tensor) -> Tensor:
    """The IoU that follows from the two shares, 0 where both are 0. Source: LED, eq. 3."""
    common = iod * iog
    return common / (iod + iog - common).clamp(min=1e-6)


def localization_score(spec: LedQuality, raw_BAQ: Tensor) -> Tensor:
    """One score per anchor, float32 ``[B, A, 1]`` in 0..1. Source: LED, section 2.5."""
    iod, iog, iou = expected_overlaps(spec, raw_BAQ).unbind(dim=-1)
    return (IOU_SHARE * iou + (1 - IOU_SHARE) * derived_iou(iod, iog))[..., None]


def sharp_l2(error: Tensor) -> Tensor:
    """x^2 / 2 below 1, |x|^3 / 3 + 1/6 from there on, not reduced. Source: LED, eq. 2."""
    size = error.abs()
    return torch.where(size < 1, size.square() / 2, size**3 / 3 + 1 / 6)


class LossElements(NamedTuple):
    """Losses of every overlap of every anchor, ``[B, A, V]``."""

    coarse: Tensor  # 0 with direct regression
    fine: Tensor


def loss_elements(spec: LedQuality, raw_BAQ: Tensor, overlap_BAV: Tensor) -> LossElements:
    """Cross entropy over the ranges, and the distance in the true range alone, not reduced.

    Args:
        spec: the branch.
        raw_BAQ: its output.
        overlap_BAV: true overlaps in 0..1, without a gradient.
    """
    estimate, units = read_estimate(spec, raw_BAQ), range_units(spec, raw_BAQ.device)
    true_BAV = value_range(overlap_BAV) if spec.coarse_to_fine else torch.zeros_like(overlap_BAV, dtype=torch.int64)
    fine_BAV = estimate.fine_BAVK.gather(-1, true_BAV[..., None])[..., 0]
    error_BAV = fine_BAV - (overlap_BAV - units.middle_K[true_BAV]) / units.half_K[true_BAV]
    coarse_BAV = F.cross_entropy(estimate.coarse_BAVK.movedim(-1, 1), true_BAV, reduction="none")
    return LossElements(coarse_BAV, sharp_l2(error_BAV) if spec.sharp_l2 else error_BAV.square() / 2)
