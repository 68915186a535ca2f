"""Training steps per second against torchvision's own RetinaNet or SSD: same machine, run and images, in turns.

    python benchmarks/training_throughput.py [--system retinanet|ssd] [--backbone resnet18] [--size 256 320]
        [--batch 4] [--rounds 12] [--threads 2] [--device cpu|cuda] [--precision 32|bf16] [--no-channels-last]
        [--compile] [--profile] [--processor-time]

A step is forward, loss, backward and optimiser on a batch of uint8 images that is in memory: what the two training
loops share. Both train all layers. RetinaNet: batch norms included, with four 256-channel convolutions per tower and
nine anchors; ours has the IoU branch besides. SSD: VGG16 at 300x300 pixels, whatever `--backbone` and `--size` say,
with the same default boxes and no quality branch. The ratio is the median over rounds of their time by ours in the
same round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.optim import SGD
from torch_steps import Step, print_profile, wait
from torchvision.models.detection import RetinaNet, ssd300_vgg16
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from calibox_training.criterion import Criterion
from calibox_training.loss_spec import LossSpec
from calibox_training.model_spec import ModelSpec
from calibox_training.models.detector import Detector
from calibox_training.objects import Objects
from calibox_training.quality_spec import NoQuality
from calibox_training.recipe import load_recipe

CLASSES = 3
OBJECTS = 8  # per image
WARM_UP = 2
SSD_SIZE = (300, 300)
LEARNING_RATE = 1e-7  # small, so that nothing diverges however many steps are measured


def main() -> None:
    """Prints a table as Markdown."""
    options = _options()
    if options.system == "ssd":
        options.backbone, options.size = "vgg16", SSD_SIZE
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    batch = _batch(options.batch, *options.size, options.device)
    steps: dict[str, Step] = {"torchvision": _theirs(options, batch), "calibox": _ours(options, batch, compiled=False)}
    if options.compile:
        steps["calibox --compile"] = _ours(options, batch, compiled=True)
    seconds = _in_turns(steps, options)
    print(
        f"{options.system}, {options.backbone}, input {options.size[0]}x{options.size[1]}, batch {options.batch}, "
        f"{options.precision}, {options.device}, {options.threads} threads, {options.rounds} rounds, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}\n"
    )
    print("| | ms per step, median [quartiles] | img/s | against torchvision |\n|---|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["torchvision"], times, strict=True))
        low, middle, high = statistics.quantiles(times, n=4)
        cell = f"{1000 * middle:.0f} [{1000 * low:.0f}, {1000 * high:.0f}]"
        print(f"| {name} | {cell} | {options.batch / middle:.2f} | {ratio:.3f} |")
    if options.profile:
        for name, step in steps.items():
            print_profile(name, step, options.device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="retinanet", choices=("retinanet", "ssd"))
    parser.add_argument("--backbone", default="resnet18", choices=("resnet18", "resnet34", "resnet50", "resnet101"))
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="32", choices=("32", "bf16"))
    parser.add_argument(
        "--channels-last", action=argparse.BooleanOptionalAction, default=True, help="memory order of ours"
    )
    parser.add_argument("--compile", action="store_true", help="measure ours through torch.compile as well")
    parser.add_argument(
        "--processor-time", action="store_true", help="of this process instead of the clock's: for a busy machine"
    )
    parser.add_argument("--profile", action="store_true", help="print the operators that a step of each spends most on")
    return parser.parse_args()


def _batch(count: int, height: int, width: int, device: str) -> tuple[Tensor, Objects]:
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)
    corner = torch.rand(count, OBJECTS, 2) * torch.tensor([0.7 * width, 0.7 * height])
    side = 16 + torch.rand(count, OBJECTS, 2) * 0.25 * min(height, width)
    boxes = torch.cat([corner, torch.minimum(corner + side, torch.tensor([float(width), float(height)]))], dim=2)
    labels = torch.randint(0, CLASSES, (count, OBJECTS))
    objects = (boxes, labels, torch.zeros(count, OBJECTS, dtype=torch.bool))
    return images.to(device), Objects(*(value.to(device) for value in objects))


def _theirs(options: argparse.Namespace, batch: tuple[Tensor, Objects]) -> Step:
    ssd = options.system == "ssd"
    model = (_their_ssd() if ssd else _their_retinanet(options)).to(options.device)
    images, objects = batch
    targets = [
        {"boxes": boxes, "labels": labels + ssd}  # SSD's label 0 is the background
        for boxes, labels in zip(objects.boxes_BG4, objects.labels_BG, strict=True)
    ]

    def loss() -> Tensor:
        planes = images.permute(0, 3, 1, 2).float() / 255
        return torch.stack(list(model(list(planes), targets).values())).sum()

    return _step(model, loss, options)


def _their_retinanet(options: argparse.Namespace) -> nn.Module:
    backbone = resnet_fpn_backbone(
        backbone_name=options.backbone,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    # Sides as the images have them: torchvision then resizes nothing.
    model: nn.Module = RetinaNet(backbone, CLASSES, min_size=min(options.size), max_size=max(options.size))
    return model


def _their_ssd() -> nn.Module:
    model: nn.Module = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    return model


def _ours(options: argparse.Namespace, batch: tuple[Tensor, Objects], *, compiled: bool) -> Step:
    spec, losses = _our_parts(options)
    model = Detector(spec, classes=CLASSES).to(options.device)
    order = torch.channels_last if options.channels_last else torch.contiguous_format
    model = model.to(memory_format=order)
    criterion = Criterion(spec, losses)
    anchors = model.anchors(*options.size).to(torch.device(options.device))
    forward = torch.compile(model, dynamic=False) if compiled else model
    images, objects = batch

    def loss() -> Tensor:
        planes = model.normalise(images).contiguous(memory_format=order)
        return criterion(forward(planes), anchors, objects).total

    return _step(model, loss, options)


def _our_parts(options: argparse.Namespace) -> tuple[ModelSpec, LossSpec]:
    if options.system == "retinanet":
        return ModelSpec(backbone=options.backbone, pyramid_top="p5"), LossSpec()
    recipe = load_recipe("torchvision_ssd300")
    return recipe.model.model_copy(update={"quality": NoQuality()}), recipe.loss


def _step(model: nn.Module, loss: Callable[[], Tensor], options: argparse.Namespace) -> Step:
    model.train()
    optimizer = SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()

    return step


def _in_turns(steps: dict[str, Step], options: argparse.Namespace) -> dict[str, list[float]]:
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    clock = time.process_time if options.processor_time else time.perf_counter
    for number in range(options.rounds):
        # Every other round in the reverse order, so that neither always follows the other.
        for name in list(steps)[:: 1 if number % 2 == 0 else -1]:
            wait(options.device)
            start = clock()
            steps[name]()
            wait(options.device)
            seconds[name].append(clock() - start)
    return seconds


if __name__ == "__main__":
    main()
