"""A two-stage detector as `Evaluator` runs it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calibox_training.rcnn.detector import RcnnDetector


@dataclass(frozen=True, slots=True)
class RcnnCandidates:
    """A `CandidateSource`: each (box, class) pair is a box with that class's score alone."""

    detector: RcnnDetector
    size: tuple[int, int]  # height and width of the input in pixels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.detector.mean.device

    @torch.no_grad()
    def __call__(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``[1, R, 4]``, p ``[1, R, C]`` and q ``[1, R, 1]`` of one image; every pair is passed on.

        Args:
            images: uint8 ``[1, H, W, 3]``.
            fusion: not needed: nothing is chosen by the key.
        """
        del fusion
        pyramid = self.detector.pyramid(images)
        found = self.detector.candidates(pyramid, images)
        q_R = self.detector.localization(pyramid, found)
        p_RC = F.one_hot(found.label_R, self.detector.classes) * found.p_R[:, None]
        return found.boxes_R4[None], p_RC[None], q_R[None, :, None]
