"""Optimisation-based refinement: boxes climb the predictor's IoU. Source: IoU-Net, arXiv 1807.11590, Algorithm 2.

The step size counts the slope of the raw output, 2 IoU - 1; the two thresholds count IoU. A box's pyramid level is
that of where it starts, so that what it climbs is continuous.

Letters: R boxes, n boxes that still move.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from calibox_training.iou_net.predictor import IouPredictor, output_of_class
from calibox_training.iou_net.prroi_pool import pool_maps
from calibox_training.iou_net.spec import RefinementSpec
from calibox_training.iou_net.windows import Maps

# Raw outputs [n] of boxes [n, 4] that stand for the RoIs at positions [n].
Score = Callable[[Tensor, Tensor], Tensor]


class Refined(NamedTuple):
    """Where the boxes went."""

    boxes_R4: Tensor
    output_R: Tensor  # raw output there; `predicted_iou` makes it an IoU
    steps_R: Tensor  # int64 steps tried


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxScore:
    """The predictor's output for the class of each RoI, on levels that stay as they are."""

    predictor: IouPredictor
    maps: Maps
    scales: Sequence[float]  # of the maps, see `pool_maps`
    image_R: Tensor
    label_R: Tensor
    level_R: Tensor

    def __call__(self, boxes_n4: Tensor, rows_n: Tensor) -> Tensor:
        """Raw outputs ``[n]``."""
        side = self.predictor.spec.pooled
        pooled = pool_maps(
            self.maps, boxes_n4, self.image_R[rows_n], self.level_R[rows_n], (side, side), scales=self.scales
        )
        return output_of_class(self.predictor(pooled), self.label_R[rows_n])


def refine(score: Score, boxes_R4: Tensor, size_R2: Tensor, spec: RefinementSpec) -> Refined:
    """Algorithm 2 over all boxes at once; T steps pool each box T + 1 times.

    Boxes are first cut to their images and stay inside. A step that would leave a box without width or height leaves
    that axis as it was; boxes without area do not move. Weights get no gradient.

    Args:
        score: differentiable in the boxes; NaN ends a box's steps.
        boxes_R4: float32 x1, y1, x2, y2 in pixels.
        size_R2: height and width of each box's image in pixels.
        spec: of the recipe.
    """
    *_, last = refinement_steps(score, boxes_R4, size_R2, spec)
    return last


def refinement_steps(score: Score, boxes_R4: Tensor, size_R2: Tensor, spec: RefinementSpec) -> Iterator[Refined]:
    """What `refine` returns with 0, 1, ... ``spec.steps`` steps; arguments as there."""
    limit_R4 = size_R2.flip(1).repeat(1, 2).to(boxes_R4.dtype)
    now_R4 = boxes_R4.detach().clamp(min=0).minimum(limit_R4)
    rows_n = torch.arange(len(now_R4), device=now_R4.device)
    now_R, slope_n4 = _climb(score, now_R4, rows_n)
    best_R4, best_R, steps_R = now_R4.clone(), now_R.clone(), torch.zeros_like(rows_n)
    kept_R4, kept_R = (now_R4, now_R) if spec.keep_worse else (best_R4, best_R)  # the same memory
    yield Refined(kept_R4.clone(), kept_R.clone(), steps_R.clone())
    for _ in range(spec.steps):
        moved_n4 = _step(now_R4[rows_n], slope_n4, limit_R4[rows_n], spec.step_size)
        before_n = now_R[rows_n]
        after_n, slope_n4 = _climb(score, moved_n4, rows_n)
        now_R4[rows_n], now_R[rows_n] = moved_n4, after_n
        steps_R[rows_n] += 1
        better_n = after_n > best_R[rows_n]
        best_R4[rows_n[better_n]], best_R[rows_n[better_n]] = moved_n4[better_n], after_n[better_n]
        gain_n = (after_n - before_n) / 2  # of IoU
        goes_on_n = (gain_n.abs() >= spec.early_stop) & (gain_n >= spec.tolerance)
        rows_n, slope_n4 = rows_n[goes_on_n], slope_n4[goes_on_n]
        yield Refined(kept_R4.clone(), kept_R.clone(), steps_R.clone())


def _climb(score: Score, boxes_n4: Tensor, rows_n: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and their slopes by the coordinates, ``[n]`` and ``[n, 4]``; boxes are independent of one another."""
    with torch.enable_grad():
        boxes_n4 = boxes_n4.detach().requires_grad_()
        output_n = score(boxes_n4, rows_n)
        (slope_n4,) = torch.autograd.grad(output_n.sum(), boxes_n4)
    return output_n.detach(), slope_n4


def _step(boxes_n4: Tensor, slope_n4: Tensor, limit_n4: Tensor, step_size: float) -> Tensor:
    """Line 6: each coordinate moves by its slope, scaled with the box's side on that axis."""
    side_n4 = (boxes_n4[:, 2:] - boxes_n4[:, :2]).clamp(min=0).repeat(1, 2)
    moved_n4 = (boxes_n4 + step_size * slope_n4 * side_n4).clamp(min=0).minimum(limit_n4)
    whole_n2 = moved_n4[:, 2:] > moved_n4[:, :2]
    return torch.where(whole_n2.repeat(1, 2), moved_n4, boxes_n4)
