"""A foreign detector for `calibox attach-quality`: torchvision's Faster R-CNN, narrow, trained and exported to ONNX.

Nothing of calibox is in the detector: it is torchvision's model, trained by its own loss and exported as its users
export it, one picture at a time, with its own suppression inside.

    python benchmarks/attach_quality_demo.py --data deeppcb --output runs/attach-demo --steps 1150
    calibox attach-quality --detector runs/attach-demo/detector.onnx --data deeppcb --output runs/attach-demo/quality

The figures are in docs/results/attach-quality.md.
"""

import argparse
import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.resnet import BasicBlock
from torchvision.ops import MultiScaleRoIAlign

from calibox_core.dataset import CocoFolder, find_dataset
from calibox_training.data.coco import place, read_classes, read_image, read_records
from calibox_training.models.backbones import NarrowResNet

SIDE = 320  # pixels of the input
STAGES = {"layer1": "0", "layer2": "1", "layer3": "2"}  # strides 4, 8 and 16: the defects are 18 pixels wide
ANCHORS = ((12,), (18,), (27,), (45,))  # pixels, for these and the pooled level above them
STEM, CHANNELS, HIDDEN, BINS = 24, 48, 128, 5
BATCH = 4
WARM_UP = 50  # steps
LEARNING_RATE = 2e-3
LOG_EVERY = 50

Pictures = tuple[NDArray[np.uint8], list[Tensor], list[Tensor]]


def small_faster_rcnn(classes: int) -> FasterRCNN:
    """Faster R-CNN on a quarter-width ResNet-18; torchvision counts the background as class 0."""
    body = NarrowResNet([2, 2, 2, 2], width=0.375)
    # A stem of 64 channels at half the resolution would take most of the time.
    body.conv1 = nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False)
    body.bn1 = nn.BatchNorm2d(STEM)
    body.layer1[0] = BasicBlock(STEM, STEM)
    return FasterRCNN(
        BackboneWithFPN(body, STAGES, [STEM, 48, 96], CHANNELS),
        min_size=SIDE,
        max_size=SIDE,
        rpn_anchor_generator=AnchorGenerator(ANCHORS, ((0.6, 1.0, 1.67),) * len(ANCHORS)),
        rpn_pre_nms_top_n_train=400,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=400,
        rpn_post_nms_top_n_test=200,
        rpn_batch_size_per_image=128,
        box_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(list(STAGES.values()), BINS, sampling_ratio=2),
        box_head=nn.Sequential(
            nn.Flatten(), nn.Linear(CHANNELS * BINS**2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
        ),
        box_predictor=FastRCNNPredictor(HIDDEN, classes + 1),
    )


def read_pictures(folder: CocoFolder) -> tuple[Pictures, int]:
    """The training split letterboxed, boxes in its pixels, labels from 1; and the number of classes."""
    document = folder.annotations("train")
    classes = read_classes(document)
    images, boxes, labels = [], [], []
    for record in read_records(document, classes):
        image, placed = place(read_image(folder, record), record.boxes, height=SIDE, width=SIDE)
        images.append(image.numpy())
        boxes.append(placed[~record.crowd])
        labels.append(torch.from_numpy(record.labels[~record.crowd]) + 1)
    return (np.stack(images), boxes, labels), len(classes)


def batch_of(
    pictures: Pictures, chosen: NDArray[np.int64], rng: np.random.Generator
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Pictures as torchvision takes them, turned over at random."""
    images, boxes, labels = pictures
    inputs, targets = [], []
    for i in chosen:
        image, own = torch.from_numpy(images[i]).permute(2, 0, 1).float() / 255, boxes[i].clone()
        for axis in np.flatnonzero(rng.random(2) < 0.5):  # 0: x, 1: y
            image = image.flip(2 - int(axis))
            own[:, [axis, axis + 2]] = SIDE - own[:, [axis + 2, axis]]
        inputs.append(image)
        targets.append({"boxes": own, "labels": labels[i]})
    return inputs, targets


def train(pictures: Pictures, classes: int, steps: int) -> FasterRCNN:
    """So many steps of AdamW with a cosine."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = small_faster_rcnn(classes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    order = np.concatenate([rng.permutation(len(pictures[1])) for _ in range(1 + steps * BATCH // len(pictures[1]))])
    began = time.perf_counter()
    for step in range(steps):
        losses = model(*batch_of(pictures, order[step * BATCH : (step + 1) * BATCH], rng))
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        decay.step()
        if (step + 1) % LOG_EVERY == 0:
            print(f"step {step + 1}: loss {float(loss):.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    return model.eval()


def export(model: FasterRCNN, path: Path) -> None:
    """As torchvision's documentation does it; its exporter by torch.export cannot follow the suppression."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        torch.onnx.export(
            model,
            ([torch.rand(3, SIDE, SIDE)],),
            str(path),
            opset_version=17,
            dynamo=False,
            input_names=["image"],
            output_names=["boxes", "labels", "scores"],
        )


def main() -> None:
    """Trains, keeps the weights, exports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="deeppcb", help="folder or name below CALIBOX_DATA")
    parser.add_argument("--output", type=Path, default=Path("runs/attach-demo"))
    parser.add_argument("--steps", type=int, default=1150)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pictures, classes = read_pictures(find_dataset(options.data))
    model = train(pictures, classes, options.steps)
    torch.save(model.state_dict(), options.output / "detector.pt")
    export(model, options.output / "detector.onnx")


if __name__ == "__main__":
    main()
