"""From pixels to candidates: what training evaluates and export writes into the graph.

Letters: B images, A anchors of a level or of all, C classes.
"""

import torch
from torch import Tensor, nn

from calibox_core.fusion import SMALLEST_SCORE
from calibox_training.box_coder import decode_boxes
from calibox_training.models.detector import Detector


class CandidateGraph(nn.Module):
    """Normalisation, network, sigmoid, decoding, and the best anchors of each level. Exportable; fixed input size."""

    detector: Detector
    anchors_A4: Tensor

    def __init__(self, detector: Detector, *, height: int, width: int, per_level_top_k: int) -> None:
        super().__init__()
        self.detector = detector
        self.size = (height, width)
        self.per_level_top_k = per_level_top_k
        levels = detector.anchors(height, width)
        self.counts = [len(level) for level in levels]
        self.register_buffer("anchors_A4", torch.cat(levels), persistent=False)

    def forward(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates of a batch.

        Args:
            images: uint8 ``[B, H, W, 3]``, RGB, letterboxed.
            fusion: float32 ``[B, 3]``, exponents of the ranking key that chooses the anchors of a level.

        Returns: boxes float32 ``[B, A, 4]`` in letterboxed pixels, clipped to the input; classification scores
            ``[B, A, C]`` and localization scores ``[B, A, 1]`` in 0..1.
        """
        found = self.detector(self.detector.normalise(images))
        p_BAC, q_BA1 = found.class_BAC.float().sigmoid(), found.quality_BA1.float().sigmoid()
        chosen_BA = self._best_per_level(p_BAC, q_BA1, fusion)[..., None]
        p_BAC = p_BAC.gather(1, chosen_BA.expand(-1, -1, p_BAC.shape[2]))
        q_BA1 = q_BA1.gather(1, chosen_BA)
        index_BA4 = chosen_BA.expand(-1, -1, 4)
        delta_BA4 = found.delta_BA4.float().gather(1, index_BA4)
        anchors_BA4 = self.anchors_A4.expand(images.shape[0], -1, -1).gather(1, index_BA4)
        return self._clip(decode_boxes(delta_BA4, anchors_BA4)), p_BAC, q_BA1

    def _best_per_level(self, p_BAC: Tensor, q_BA1: Tensor, fusion: Tensor) -> Tensor:
        """Indices ``[B, A]`` of each level's best anchors by the key of their best class."""
        key_BA = _log_key(p_BAC.amax(dim=2), q_BA1[..., 0], fusion)
        chosen, start = [], 0
        for count in self.counts:
            level_key = key_BA[:, start : start + count]
            if count <= self.per_level_top_k:
                rows = torch.arange(count, device=key_BA.device).expand(key_BA.shape[0], -1)
            else:
                rows = level_key.topk(self.per_level_top_k, dim=1).indices
            chosen.append(rows + start)
            start += count
        return torch.cat(chosen, dim=1)

    def _clip(self, boxes_BA4: Tensor) -> Tensor:
        height, width = self.size
        return torch.stack(
            [
                boxes_BA4[..., 0].clamp(0, width),
                boxes_BA4[..., 1].clamp(0, height),
                boxes_BA4[..., 2].clamp(0, width),
                boxes_BA4[..., 3].clamp(0, height),
            ],
            dim=-1,
        )


def _log_key(p: Tensor, q: Tensor, fusion: Tensor) -> Tensor:
    """`calibox_core.fusion.log_key` in torch, ``[B, A]`` with exponents ``[B, 3]``."""
    smallest = float(SMALLEST_SCORE)
    a, b, g = fusion[:, 0:1], fusion[:, 1:2], fusion[:, 2:3]
    return a * p.clamp(min=smallest).log() + b * q.clamp(min=smallest).log() - g * (1 - q) ** 2
