"""The post-processing as people write it today: torch for the selection, torchvision's batched_nms image by image.

Letters: B images, A anchors, C classes, K candidates, N detections.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from calibox_core.suppression import Attributes


@dataclass(frozen=True)
class Scored:
    """What a network leaves: decoded boxes and scores after the sigmoid."""

    boxes_BA4: Tensor
    p_BAC: Tensor
    q_BA1: Tensor
    fusion_B3: Tensor
    score_threshold_B: Tensor
    iou_threshold_B: Tensor

    def inputs(self) -> tuple[Tensor, ...]:
        """In the order of `library.INPUT_NAMES`."""
        return self.boxes_BA4, self.p_BAC, self.q_BA1, self.fusion_B3, self.score_threshold_B, self.iou_threshold_B


def scored(device: str, *, batch: int, anchors: int, classes: int) -> Scored:
    """Boxes of 20 to 140 pixels around 60 objects of a 640-pixel image; p is the eighth power of a uniform number."""
    generator = torch.Generator(device).manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    objects = torch.randint(60, (batch, anchors, 1), generator=generator, device=device).expand(-1, -1, 2)
    centres = (uniform(batch, 60, 2) * 640).gather(1, objects) + uniform(batch, anchors, 2) * 8 - 4
    half_sides = uniform(batch, anchors, 2) * 60 + 10
    return Scored(
        boxes_BA4=torch.cat([centres - half_sides, centres + half_sides], dim=2),
        p_BAC=uniform(batch, anchors, classes) ** 8,
        q_BA1=uniform(batch, anchors, 1),
        fusion_B3=torch.tensor([[0.5, 0.5, 0.0]], device=device).repeat(batch, 1),
        score_threshold_B=torch.zeros(batch, device=device),
        iou_threshold_B=torch.full((batch,), 0.5, device=device),
    )


def candidates(given: Scored, attributes: Attributes) -> tuple[Tensor, Tensor, Tensor]:
    """Keys ``[B, K]`` (0: no candidate), boxes ``[B, K, 4]`` and labels ``[B, K]``, best first."""
    p_BAC = given.p_BAC
    a_B11, b_B11 = (given.fusion_B3[:, place, None, None] for place in range(2))
    key_BAC = torch.where(p_BAC > attributes.candidate_floor, p_BAC**a_B11 * given.q_BA1**b_B11, 0)
    wanted = min(attributes.pre_nms_top_k, key_BAC[0].numel())
    key_BK, pair_BK = key_BAC.flatten(1).topk(wanted)
    boxes_BK4 = given.boxes_BA4.gather(1, (pair_BK // p_BAC.shape[2])[..., None].expand(-1, -1, 4))
    return key_BK, boxes_BK4, pair_BK % p_BAC.shape[2]


def kept(boxes_K4: Tensor, key_K: Tensor, label_K: Tensor, most: int, iou_threshold: float) -> Tensor:
    """Places of an image's detections, best first, ``[at most N]``."""
    found = batched_nms(boxes_K4, key_K, label_K, iou_threshold)[:most]
    return found[key_K[found] > 0]


@dataclass(frozen=True)
class TorchSteps:
    """The two functions, as they are or compiled: dense steps of the whole batch, and an image's suppression."""

    candidates: Callable[..., tuple[Tensor, Tensor, Tensor]] = candidates
    kept: Callable[..., Tensor] = kept

    def detections(
        self, given: Scored, attributes: Attributes, iou_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts ``[B]``, boxes ``[B, N, 4]``, labels ``[B, N]`` and keys ``[B, N]``, padded as the operator's are.

        Less than the operator does: one IoU threshold for all images, and the candidates are not reported.
        """
        key_BK, boxes_BK4, label_BK = self.candidates(given, attributes)
        batch, most = len(key_BK), attributes.max_detections
        count_B = torch.zeros(batch, dtype=torch.int32, device=key_BK.device)
        out_BN4, label_BN = boxes_BK4.new_zeros(batch, most, 4), label_BK.new_full((batch, most), -1)
        score_BN = key_BK.new_zeros(batch, most)
        for image in range(batch):
            found = self.kept(boxes_BK4[image], key_BK[image], label_BK[image], most, iou_threshold)
            count_B[image] = len(found)
            out_BN4[image, : len(found)] = boxes_BK4[image][found]
            label_BN[image, : len(found)] = label_BK[image][found]
            score_BN[image, : len(found)] = key_BK[image][found]
        return count_B, out_BN4, label_BN, score_BN
