"""From pixels to candidates: what training evaluates and export writes into the graph.

Letters: B images, A anchors of a level or of all, C classes.
"""

import torch
from torch import Tensor, nn

from calibox_core.fusion import SMALLEST_SCORE
from calibox_training.models.detector import Detector
from calibox_training.models.heads import HeadOutput
from calibox_training.models.scores import class_scores
from calibox_training.quality import quality_scores


class CandidateGraph(nn.Module):
    """Normalisation, network, scores, decoding, and the best anchors of each level. Exportable; fixed input size."""

    detector: Detector
    anchors_A4: Tensor
    stride_A: Tensor

    def __init__(self, detector: Detector, *, height: int, width: int, per_level_top_k: int) -> None:
        super().__init__()
        self.detector = detector
        self.size = (height, width)
        self.per_level_top_k = per_level_top_k
        anchors = detector.anchors(height, width)
        self.counts = list(anchors.counts)
        self.register_buffer("anchors_A4", anchors.boxes_A4, persistent=False)
        self.register_buffer("stride_A", anchors.stride_A, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.anchors_A4.device

    def forward(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates of a batch.

        Args:
            images: uint8 ``[B, H, W, 3]``, RGB, letterboxed.
            fusion: float32 ``[B, 3]``, exponents of the ranking key that chooses the anchors of a level.

        Returns: boxes float32 ``[B, A, 4]`` in letterboxed pixels, clipped to the input; classification scores
            ``[B, A, C]`` and localization scores ``[B, A, 1]`` in 0..1, the latter 1 without a quality branch.
        """
        return self.candidates(self.detector(self.detector.normalise(images)), fusion)

    def candidates(self, found: HeadOutput, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` from the head's output on."""
        spec, quality = self.detector.spec, found.quality_BAQ
        p_BAC = class_scores(found.class_BAC, spec.class_activation)
        q_BA1 = torch.ones_like(p_BAC[..., :1]) if quality is None else quality_scores(spec.quality, quality)
        chosen_BA = self._best_per_level(p_BAC, q_BA1, fusion)[..., None]
        p_BAC = p_BAC.gather(1, chosen_BA.expand(-1, -1, p_BAC.shape[2]))
        q_BA1 = q_BA1.gather(1, chosen_BA)
        code_BAV = found.box_BAV.float().gather(1, chosen_BA.expand(-1, -1, found.box_BAV.shape[2]))
        anchors_BA4 = self.anchors_A4.expand(fusion.shape[0], -1, -1).gather(1, chosen_BA.expand(-1, -1, 4))
        stride_BA = self.stride_A.expand(fusion.shape[0], -1).gather(1, chosen_BA[..., 0])
        return self._clip(self.detector.coder.decode(code_BAV, anchors_BA4, stride_BA)), p_BAC, q_BA1

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
