"""What ranking by each fusion does to the same weights: AP at high IoU, and the correlation of the scores with IoU.

The whole post-processing is redone per ranking: anchors chosen per level, candidates, suppression, reported score.
Differences to ranking by the classification score carry 95 % intervals of a bootstrap over images (paired).

    python benchmarks/ranking_comparison.py runs/bccd/checkpoints/last.ckpt [--data DIR] [--draws 500]
"""

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from calibox_core.coco_metrics import Metrics, load_ground_truth
from calibox_core.fusion import Fusion, FusionName
from calibox_core.layouts import open_dataset
from calibox_training.checkpoint import TrainedModel, load_checkpoint
from calibox_training.data.coco import read_records
from calibox_training.evaluation import Evaluator, ImageResult, summarise
from calibox_training.inference import CandidateGraph

RANKINGS = [
    Fusion(name=FusionName.CLASSIFICATION),
    Fusion(name=FusionName.PRODUCT),
    *(Fusion(name=FusionName.GEOMETRIC, alpha=alpha) for alpha in (0.8, 0.6, 0.5, 0.4, 0.3, 0.2)),
    Fusion(name=FusionName.POWER, alpha=0.3),
    Fusion(name=FusionName.GAUSSIAN, sigma=1.0),
    Fusion(name=FusionName.LOCALIZATION),
]
COLUMNS = ("AP", "AP50", "AP75", "AP90")
PEARSON = ("pearson_classification", "pearson_localization", "pearson_score")


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", help="folder or name; the recipe's own by default")
    parser.add_argument("--draws", type=int, default=500, help="bootstrap samples")
    options = parser.parse_args()
    model = load_checkpoint(options.checkpoint)
    annotations = open_dataset(options.data or model.recipe.data.name, model.recipe.data).annotations("val")
    results = {name_of(fusion): evaluate(model, options.data, fusion) for fusion in RANKINGS}
    rows = {name: summarise(annotations, found)[0] for name, found in results.items()}
    samples = {name: bootstrap(annotations, found, options.draws) for name, found in results.items()}
    print_tables(rows, samples, len(annotations["images"]))


def name_of(fusion: Fusion) -> str:
    """Fusion and the parameter that it uses."""
    parameter = {FusionName.GEOMETRIC: fusion.alpha, FusionName.POWER: fusion.alpha, FusionName.GAUSSIAN: fusion.sigma}
    value = parameter.get(fusion.name)
    return str(fusion.name) if value is None else f"{fusion.name} {value:g}"


def evaluate(model: TrainedModel, data: str | None, fusion: Fusion) -> list[ImageResult]:
    """Detections of the validation split under one ranking."""
    recipe = model.recipe
    folder = open_dataset(data or recipe.data.name, recipe.data)
    graph = CandidateGraph(
        model.detector, height=recipe.input.height, width=recipe.input.width, per_level_top_k=recipe.per_level_top_k
    )
    evaluator = Evaluator(folder, model.classes, fusion, recipe.nms, iou_threshold=recipe.thresholds.iou)
    return [evaluator.run(graph, record) for record in read_records(folder.annotations("val"), model.classes)]


def bootstrap(annotations: dict[str, Any], results: list[ImageResult], draws: int) -> NDArray[np.float64]:
    """``[draws, 4]``: the columns for resampled images; the same seed pairs the draws of all rankings."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = load_ground_truth(annotations)
        evaluation = COCOeval(truth, truth.loadRes([d for r in results for d in r.detections]), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        whole = list(evaluation.evalImgs)
        images = len(evaluation.params.imgIds)
        generator = np.random.default_rng(0)
        return np.array([_resampled(evaluation, whole, generator.integers(0, images, images)) for _ in range(draws)])


def _resampled(evaluation: Any, whole: list[Any], chosen: NDArray[np.int64]) -> list[float]:
    images, classes = len(chosen), len(evaluation.params.catIds)
    evaluation.evalImgs = [whole[c * images + i] for c in range(classes) for i in chosen]
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    at = [precision, precision[0:1], precision[5:6], precision[8:9]]  # IoU 0.5:0.95, 0.5, 0.75, 0.9
    return [float(part[part > -1].mean()) for part in at]


def print_tables(rows: dict[str, Metrics], samples: dict[str, NDArray[np.float64]], images: int) -> None:
    """AP per ranking, differences with intervals, correlations."""
    base = str(FusionName.CLASSIFICATION)
    print(f"| ranking and reported score | {' | '.join(COLUMNS)} | {' | '.join('d' + c for c in COLUMNS)} |")
    print("|---" * (1 + 2 * len(COLUMNS)) + "|")
    for name, metrics in rows.items():
        low, high = np.percentile(samples[name] - samples[base], (2.5, 97.5), axis=0)
        values = [metrics[c] or 0.0 for c in COLUMNS]
        delta = [value - (rows[base][c] or 0.0) for value, c in zip(values, COLUMNS, strict=True)]
        cells = [f"{v:.4f}" for v in values]
        cells += (
            ["-"] * 4
            if name == base
            else [f"{d:+.4f} [{a:+.4f}, {b:+.4f}]" for d, a, b in zip(delta, low, high, strict=True)]
        )
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{images} images; intervals: 95 %, paired bootstrap over images.\n")
    print(f"| candidates chosen by | n | {' | '.join(PEARSON)} |")
    print("|---" * (2 + len(PEARSON)) + "|")
    for name, metrics in rows.items():
        cells = [f"{value:.3f}" if (value := metrics[key]) is not None else "-" for key in PEARSON]
        print(f"| {name} | {metrics['pearson_n']:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
