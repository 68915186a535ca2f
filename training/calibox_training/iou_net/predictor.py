"""IoU-Net's predictor: the IoU of a box with its object, for every class, from the box's pooled features.

Source: IoU-Net, arXiv 1807.11590, fig. 5 and section 3.4. The network learns 2 IoU - 1 with a linear output; only the
output of a box's class is trained and read.

Letters: R boxes, F features, P x P bins, C classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from calibox_training.iou_net.spec import PredictorSpec

HIDDEN_DEVIATION, OUTPUT_DEVIATION = 0.01, 0.001  # the paper names the two and not where each belongs


class IouPredictor(nn.Module):
    """Two hidden layers and one output per class."""

    def __init__(self, spec: PredictorSpec, *, features: int, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features * spec.pooled**2, spec.width),
            nn.ReLU(),
            nn.Linear(spec.width, spec.width),
            nn.ReLU(),
        )
        self.output = nn.Linear(spec.width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                self._initialise(layer)

    def _initialise(self, layer: nn.Linear) -> None:
        nn.init.zeros_(layer.bias)
        if layer is self.output:
            nn.init.normal_(layer.weight, std=OUTPUT_DEVIATION)
        elif self.spec.initialisation == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            nn.init.normal_(layer.weight, std=HIDDEN_DEVIATION)

    def forward(self, pooled_RFPP: Tensor) -> Tensor:
        """2 IoU - 1 of every class, float32 ``[R, C]``, not bounded."""
        found: Tensor = self.output(self.hidden(pooled_RFPP))
        return found.float()


def output_of_class(output_RC: Tensor, label_R: Tensor) -> Tensor:
    """Each box's output for its class, ``[R]``."""
    return output_RC.gather(1, label_R[:, None])[:, 0]


def predicted_iou(output: Tensor) -> Tensor:
    """IoU in 0..1 of outputs, any shape."""
    return ((output + 1) / 2).clamp(0, 1)


def predictor_loss(output_RC: Tensor, label_R: Tensor, iou_R: Tensor, *, weight: float) -> Tensor:
    """Weighted mean over the boxes of smooth L1 between the class's output and 2 IoU - 1; 0 without boxes."""
    found_R = output_of_class(output_RC, label_R)
    return weight * F.smooth_l1_loss(found_R, 2 * iou_R - 1, reduction="sum") / max(1, len(label_R))
