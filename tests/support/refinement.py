"""Scores that boxes can climb, and Algorithm 2 of IoU-Net written out box by box."""

import torch
from torch import Tensor

from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.prroi_pool import flatten_maps
from calibox_training.iou_net.refinement import BoxScore, Score
from calibox_training.iou_net.spec import PredictorSpec

SIZE = (96, 128)  # height, width of the image


def bumpy_score(count: int, *, seed: int, classes: int = 2, gain: float = 200.0) -> BoxScore:
    """A predictor with random weights on random maps, for `count` RoIs of two images and two levels."""
    torch.manual_seed(seed)
    predictor = IouPredictor(PredictorSpec(width=16, pooled=3, initialisation="he"), features=4, classes=classes)
    with torch.no_grad():
        predictor.output.weight.mul_(gain)  # the paper's 0.001 leaves no hills
    levels = [torch.randn(2, 4, SIZE[0] // stride, SIZE[1] // stride) for stride in (8, 16)]
    return BoxScore(
        predictor=predictor,
        maps=flatten_maps(levels),
        scales=(1 / 8, 1 / 16),
        image_R=torch.arange(count) % 2,
        label_R=torch.arange(count) % classes,
        level_R=torch.arange(count) // 2 % 2,
    )


def loop_algorithm_2(
    score: Score, boxes: Tensor, *, steps: int, step_size: float, early_stop: float, tolerance: float
) -> tuple[Tensor, list[int]]:
    """The paper's text, line by line, for boxes that neither leave the image nor invert; also the steps of each."""
    boxes = boxes.clone()
    stopped: set[int] = set()
    tried = [0] * len(boxes)
    for _ in range(steps):
        for j in range(len(boxes)):
            if j in stopped:
                continue
            box = boxes[j : j + 1].clone().requires_grad_()
            previous = score(box, torch.tensor([j]))[0]
            (slope,) = torch.autograd.grad(previous, box)
            x1, y1, x2, y2 = boxes[j].tolist()
            sides = torch.tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
            boxes[j] += step_size * slope[0] * sides
            new = score(boxes[j : j + 1], torch.tensor([j]))[0]
            tried[j] += 1
            change = float(new.detach() - previous.detach()) / 2  # outputs are 2 IoU - 1
            if abs(change) < early_stop or change < tolerance:
                stopped.add(j)
    return boxes, tried
