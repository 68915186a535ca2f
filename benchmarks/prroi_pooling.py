"""Precise RoI pooling against torchvision's RoIAlign: same machine, same run, same maps and RoIs, in turns.

    python benchmarks/prroi_pooling.py [--size 800 1344] [--batch 2] [--rois 512] [--features 256] [--strides 8 16 32]
        [--rounds 12] [--threads 2] [--device cpu|cuda] [--profile]

RoIs are spread over the levels of an FPN by their size and pooled to 7x7; RoIAlign takes 2x2 samples per bin
(``aligned=True``) and a call per level. The ratio is the median over rounds of its time by ours in the same round.
Backward means gradients of the maps, and for ours of the RoIs as well where a row says so; RoIAlign has none of those.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor
from torch_steps import Step, print_profile, wait
from torchvision.ops import roi_align

from calibox_training.iou_net.prroi_pool import flatten_maps, pool_maps, roi_levels

BINS = 7
WARM_UP = 2
Pool = Callable[[list[Tensor], Tensor], Tensor]


def main() -> None:
    """Prints a table as Markdown."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    (height, width), (maps, rois, image) = options.size, pyramid_and_rois(options)
    pools: dict[str, Pool] = {
        "RoIAlign": lambda levels, boxes: aligned(levels, boxes, image, options.strides),
        "PrRoI": lambda levels, boxes: precise(levels, boxes, image, options.strides),
    }
    print(
        f"{options.batch} images of {height}x{width}, {len(rois)} RoIs, {options.features} features, "
        f"strides {options.strides}\n{options.device}, {options.threads} threads, {options.rounds} rounds, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}\n"
    )
    print("| | RoIAlign, ms [quartiles] | PrRoI, ms [quartiles] | ratio |\n|---|---|---|---|")
    passes = {
        "forward": (forward, forward),
        "forward and backward, maps": (maps_backward, maps_backward),
        "forward and backward, ours maps and RoIs": (maps_backward, both_backward),
        "forward and backward, ours RoIs alone": (maps_backward, _rois_backward),
    }
    for name, (theirs, ours) in passes.items():
        steps = {"theirs": theirs(pools["RoIAlign"], maps, rois), "ours": ours(pools["PrRoI"], maps, rois)}
        seconds = _in_turns(steps, options)
        ratio = statistics.median(a / b for a, b in zip(seconds["theirs"], seconds["ours"], strict=True))
        print(f"| {name} | {_cell(seconds['theirs'])} | {_cell(seconds['ours'])} | {ratio:.2f} |")
        if options.profile:
            print_profile("calibox", steps["ours"], options.device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rois", type=int, default=512, help="per image")
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--strides", type=int, nargs="+", default=[8, 16, 32], help="from P3 on, or the one level")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", action="store_true", help="print the operators that ours spends most on")
    return parser.parse_args()


def pyramid_and_rois(options: argparse.Namespace) -> tuple[list[Tensor], Tensor, Tensor]:
    """Maps in channels-last memory, as convolutions leave them, RoIs with log-uniform sides, and their images."""
    (height, width), count = options.size, options.batch * options.rois
    maps = [
        torch.randn(options.batch, options.features, -(-height // stride), -(-width // stride))
        .contiguous(memory_format=torch.channels_last)
        .to(options.device)
        for stride in options.strides
    ]
    side = 16 * (min(height, width) * 0.6 / 16) ** torch.rand(count, 2)  # 16 px to six tenths of the image
    corner = torch.rand(count, 2) * (torch.tensor([width, height]) - side)
    image = torch.arange(count) // options.rois
    return maps, torch.cat([corner, corner + side], dim=1).to(options.device), image.to(options.device)


def levels_of(boxes: Tensor, strides: list[int]) -> Tensor:
    return roi_levels(boxes.detach(), lowest=3, highest=2 + len(strides))


def precise(levels: list[Tensor], boxes: Tensor, image: Tensor, strides: list[int]) -> Tensor:
    scales = [1 / stride for stride in strides]
    return pool_maps(flatten_maps(levels), boxes, image, levels_of(boxes, strides), (BINS, BINS), scales=scales)


def aligned(levels: list[Tensor], boxes: Tensor, image: Tensor, strides: list[int]) -> Tensor:
    """A call per level, as torchvision's MultiScaleRoIAlign does it."""
    rows = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
    level = levels_of(boxes, strides)
    pooled = levels[0].new_zeros(len(boxes), levels[0].shape[1], BINS, BINS)
    for number, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        found = torch.where(level == number)[0]
        pooled[found] = roi_align(features, rows[found], BINS, 1 / stride, sampling_ratio=2, aligned=True)
    return pooled


def forward(pool: Pool, maps: list[Tensor], rois: Tensor) -> Step:
    def step() -> None:
        with torch.no_grad():
            pool(maps, rois)

    return step


def _backward(pool: Pool, maps: list[Tensor], rois: Tensor, *, of_maps: bool, of_rois: bool) -> Step:
    leaves = [level.clone().requires_grad_(of_maps) for level in maps]
    boxes = rois.clone().requires_grad_(of_rois)
    wanted = [leaf for leaf in (*leaves, boxes) if leaf.requires_grad]
    with torch.no_grad():
        slope = torch.randn_like(pool(maps, rois))

    def step() -> None:
        torch.autograd.grad(pool(leaves, boxes), wanted, slope)

    return step


def maps_backward(pool: Pool, maps: list[Tensor], rois: Tensor) -> Step:
    return _backward(pool, maps, rois, of_maps=True, of_rois=False)


def both_backward(pool: Pool, maps: list[Tensor], rois: Tensor) -> Step:
    return _backward(pool, maps, rois, of_maps=True, of_rois=True)


def _rois_backward(pool: Pool, maps: list[Tensor], rois: Tensor) -> Step:
    return _backward(pool, maps, rois, of_maps=False, of_rois=True)


def _in_turns(steps: dict[str, Step], options: argparse.Namespace) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + options.rounds):
        # Every other round in the reverse order, so that neither always follows the other.
        for name in list(steps)[:: 1 if number % 2 == 0 else -1]:
            wait(options.device)
            start = time.perf_counter()
            steps[name]()
            wait(options.device)
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _cell(times: list[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{1000 * middle:.0f} [{1000 * low:.0f}, {1000 * high:.0f}]"


if __name__ == "__main__":
    main()
