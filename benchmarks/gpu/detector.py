"""A real detector's forward pass beside our post-processing of as many anchors and classes: our share of it."""

import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn

from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.postprocessing import OURS, our_steps
from benchmarks.gpu.rounds import in_turns
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.torch_postprocessing import scored

BATCHES = (1, 8, 32)


def share_of_a_detector(setup: Setup, outcome: Outcome) -> None:
    """RetinaNet with a ResNet-50 and random weights; network alone, without its own transform and post-processing."""
    side, kind = setup.pick((640, torch.float16), (64, torch.float32))
    outcome.sentences.append(f"RetinaNet-R50, random weights, {side} px, {kind}, channels-last, eager.")
    columns = ("batch", "anchors", "classes", "network, ms", "ours with a CUDA graph, ms", "ours, % of the network")
    rows = outcome.table("Post-processing beside the network", *columns)
    network = _network().to(setup.device, kind).to(memory_format=torch.channels_last)
    for batch in setup.pick(BATCHES, (1, 2)):
        images = torch.rand(batch, 3, side, side, device=setup.device, dtype=kind)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            anchors, classes = network(images).shape[1:]
            ours = our_steps(
                setup, setup.kernels(), scored(setup.device, batch=batch, anchors=anchors, classes=classes)
            )
            steps = {"network": lambda given=images: network(given), "ours": ours[OURS[0]]}
            times = in_turns(setup, steps, rounds=setup.pick(30, 2))
        share = 100 / times["network"].over(times["ours"])
        outcome.figures |= {f"{name}, batch {batch}": one.rounds for name, one in times.items()}
        rows.append([batch, anchors, classes, times["network"].cell(), times["ours"].cell(), share])
        setup.keep(outcome)


class _Network(nn.Module):
    """Backbone and heads of a RetinaNet; the scores after the sigmoid, ``[B, A, C]``."""

    def __init__(self) -> None:
        super().__init__()
        whole = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
        self.backbone, self.head = whole.backbone, whole.head

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        outputs = self.head(list(self.backbone(images_B3HW).values()))
        scores: torch.Tensor = outputs["cls_logits"].sigmoid()
        return scores


def _network() -> nn.Module:
    torch.manual_seed(0)
    return _Network().eval()
