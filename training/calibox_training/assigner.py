"""Assignment of anchors to objects, vectorised over a padded batch: fixed IoU thresholds (RetinaNet, SSD) and ATSS.

Letters: B images, G objects (padded), A anchors.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from calibox_training.anchors import AnchorSet
from calibox_training.box_coder import batched_intersection, batched_iou
from calibox_training.model_spec import AssignerSpec

BACKGROUND = -1
IGNORED = -2
# An anchor that lies this much inside a crowd region teaches nothing (COCO's evaluation forgives it as well).
CROWD_OVERLAP = 0.5
# ATSS: an anchor's centre lies at least this far inside its object, in pixels (the authors' code).
CENTRE_MARGIN = 0.01


class Assignment(NamedTuple):
    """What each anchor answers for."""

    object_BA: Tensor  # int64: index of the object, -1 background, -2 ignored
    iou_BA: Tensor  # float32: best IoU of the anchor with an object, 0 without objects

    @property
    def positive_BA(self) -> Tensor:
        """bool: the anchor answers for an object."""
        return self.object_BA >= 0


class Assigner(Protocol):
    """A pure function of anchors and objects."""

    def __call__(self, anchors: AnchorSet, boxes_BG4: Tensor, real_BG: Tensor, crowd_BG: Tensor) -> Assignment:
        """Assigns.

        Args:
            anchors: of all levels.
            boxes_BG4: float32 objects, padded.
            real_BG: bool, False on padding and on crowd regions.
            crowd_BG: bool, True on crowd regions.
        """


def build_assigner(spec: AssignerSpec) -> Assigner:
    """The recipe's."""
    return AtssAssigner(spec) if spec.kind == "atss" else MaxIouAssigner(spec)


@dataclass(frozen=True, slots=True)
class MaxIouAssigner:
    """RetinaNet and SSD: thresholds on the IoU, and every object claims its best anchors, or the first of them."""

    spec: AssignerSpec

    @torch.no_grad()
    def __call__(self, anchors: AnchorSet, boxes_BG4: Tensor, real_BG: Tensor, crowd_BG: Tensor) -> Assignment:
        """See `Assigner`."""
        iou_BGA = batched_iou(boxes_BG4, anchors.boxes_A4) * real_BG[:, :, None]
        best_BA, object_BA = _best(iou_BGA)
        found_BA = torch.full_like(object_BA, IGNORED)
        found_BA[best_BA < self.spec.negative_iou] = BACKGROUND
        found_BA = torch.where(_in_crowd(anchors.boxes_A4, boxes_BG4, crowd_BG), IGNORED, found_BA)
        found_BA = torch.where((best_BA >= self.spec.positive_iou) & (object_BA >= 0), object_BA, found_BA)
        return Assignment(self._claim_best(found_BA, iou_BGA), best_BA)

    def _claim_best(self, found_BA: Tensor, iou_BGA: Tensor) -> Tensor:
        """Every object takes the anchors that no anchor overlaps better; the last object wins a contested one."""
        if iou_BGA.shape[1] == 0:
            return found_BA
        top_BG1, first_BG1 = iou_BGA.max(dim=2, keepdim=True)
        claims_BGA = (iou_BGA == top_BG1) & (top_BG1 > self.spec.min_positive_iou)
        if self.spec.claims == "first_best":
            claims_BGA &= torch.arange(iou_BGA.shape[2], device=iou_BGA.device) == first_BG1
        number_G = torch.arange(iou_BGA.shape[1], device=iou_BGA.device)[None, :, None]
        claimer_BA = torch.where(claims_BGA, number_G, BACKGROUND).amax(dim=1)
        return torch.where(claimer_BA >= 0, claimer_BA, found_BA)


@dataclass(frozen=True, slots=True)
class AtssAssigner:
    """Adaptive training sample selection. Source: Zhang et al., ATSS, arXiv 1912.02424, algorithm 1.

    Of the anchors of each level the ``top_k`` with the nearest centres are an object's candidates (ties: the lower
    index). Those whose IoU reaches mean + standard deviation of the candidates' IoUs, and whose centre lies inside the
    object, are positive; an anchor that several objects want goes to the one it overlaps most, then to the first.
    """

    spec: AssignerSpec

    @torch.no_grad()
    def __call__(self, anchors: AnchorSet, boxes_BG4: Tensor, real_BG: Tensor, crowd_BG: Tensor) -> Assignment:
        """See `Assigner`."""
        iou_BGA = batched_iou(boxes_BG4, anchors.boxes_A4) * real_BG[:, :, None]
        candidate_BGA = self._candidates(anchors, boxes_BG4)
        wanted_BGA = candidate_BGA & (iou_BGA >= _threshold(iou_BGA, candidate_BGA))
        wanted_BGA &= _centre_inside(anchors, boxes_BG4) & real_BG[:, :, None]
        # Unwanted pairs lie below every IoU, an IoU of 0 included.
        held_BA, object_BA = _best(torch.where(wanted_BGA, iou_BGA, -1.0), nothing=-0.5)
        found_BA = torch.where(_in_crowd(anchors.boxes_A4, boxes_BG4, crowd_BG), IGNORED, BACKGROUND)
        found_BA = torch.where(held_BA >= 0, object_BA, found_BA)
        return Assignment(found_BA, _best(iou_BGA)[0])

    def _candidates(self, anchors: AnchorSet, boxes_BG4: Tensor) -> Tensor:
        """Bool ``[B, G, A]``, ``min(top_k, anchors of the level)`` per level."""
        centre_BG2 = (boxes_BG4[..., :2] + boxes_BG4[..., 2:]) / 2
        far_BGA = (centre_BG2[:, :, None] - anchors.centre_A2).square().sum(dim=-1)
        levels = torch.split(far_BGA, list(anchors.counts), dim=2)
        return torch.cat([_nearest(level, self.spec.top_k) for level in levels], dim=2)


def _nearest(far_BGL: Tensor, count: int) -> Tensor:
    """The ``count`` smallest along the last axis, ties by index, without a sort of the whole level."""
    count = min(count, far_BGL.shape[-1])
    last = far_BGL.topk(count, dim=-1, largest=False).values[..., -1:]
    closer, tied = far_BGL < last, far_BGL == last
    room = count - closer.sum(dim=-1, keepdim=True)
    return closer | (tied & (tied.cumsum(dim=-1) <= room))


def _threshold(iou_BGA: Tensor, candidate_BGA: Tensor) -> Tensor:
    """Mean plus unbiased standard deviation over each object's candidates, float64 ``[B, G, 1]``.

    Summed in float64: candidates of one and the same IoU must reach their own mean.
    """
    count = candidate_BGA.sum(dim=2, keepdim=True)
    mean = (iou_BGA * candidate_BGA).sum(dim=2, keepdim=True, dtype=torch.float64) / count.clamp(min=1)
    away_BGA = (iou_BGA - mean.float()) * candidate_BGA
    squares = away_BGA.square().sum(dim=2, keepdim=True, dtype=torch.float64)
    return mean + (squares / (count - 1).clamp(min=1)).sqrt()


def _centre_inside(anchors: AnchorSet, boxes_BG4: Tensor) -> Tensor:
    above_BGA2 = anchors.centre_A2 - boxes_BG4[:, :, None, :2]
    below_BGA2 = boxes_BG4[:, :, None, 2:] - anchors.centre_A2
    return torch.minimum(above_BGA2, below_BGA2).amin(dim=-1) > CENTRE_MARGIN


def _best(value_BGA: Tensor, *, nothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Largest value over the objects and the first object that has it; ``nothing`` and -1 where none is larger."""
    # A row of "no object" lets images without any run through the same lines.
    none_B1A = value_BGA.new_full((value_BGA.shape[0], 1, value_BGA.shape[2]), nothing)
    best_BA, row_BA = torch.cat([none_B1A, value_BGA], dim=1).max(dim=1)
    return best_BA, row_BA - 1


def _in_crowd(anchors_A4: Tensor, boxes_BG4: Tensor, crowd_BG: Tensor) -> Tensor:
    size_A2 = anchors_A4[:, 2:] - anchors_A4[:, :2]
    inside_BGA = batched_intersection(boxes_BG4, anchors_A4) / size_A2.prod(dim=-1)
    return ((inside_BGA > CROWD_OVERLAP) & crowd_BG[:, :, None]).any(dim=1)
