"""Time of the measures of an evaluation: pycocotools, faster-coco-eval in its place, and what is ours beside it.

    python benchmarks/metric_speed.py [--images 5000] [--detections 100] [--classes 80] [--json]

Objects and detections are drawn by chance, with as many objects as COCO has per image (7). Every part is timed once in
processor seconds of this process, so that other work on the machine changes little; the numbers of both are compared.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from calibox_client.evaluation.choices import RankBy
from calibox_client.evaluation.details import measure_details, truth_of
from calibox_core.coco_metrics import evaluate_coco, load_ground_truth

OBJECTS = 7  # of an image, as in COCO
SIDE = 640


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of an image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document, rows = scene(options.images, options.detections, options.classes)
    slow, slow_s = timed(lambda: evaluate_coco(load_ground_truth(document), rows))
    fast, fast_s = timed(lambda: evaluate_coco(load_ground_truth(document), rows, fast=True))
    truth = truth_of(document, [image["id"] for image in document["images"]])
    _, details_s = timed(lambda: measure_details(truth, rows, fast.by_class, RankBy.SCORE))
    gaps = [abs((fast.metrics[name] or 0) - (value or 0)) for name, value in slow.metrics.items()]
    found = {
        "images": options.images,
        "detections": len(rows),
        "AP": slow.metrics["AP"],
        "pycocotools_s": round(slow_s, 2),
        "faster_s": round(fast_s, 2),
        "ratio": round(slow_s / fast_s, 2),
        "largest_difference": max(gaps),
        "details_s": round(details_s, 2),
    }
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


def scene(images: int, detections: int, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO document, and results of which some are near objects and most are not."""
    rng = np.random.default_rng(0)
    annotations, rows = [], []
    for image_id in range(1, images + 1):
        boxes = np.concatenate(
            [rng.uniform(0, SIDE / 2, (OBJECTS, 2)), rng.uniform(10, SIDE / 2, (OBJECTS, 2))], axis=1
        )
        labels = rng.integers(1, classes + 1, OBJECTS)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image_id, "category_id": label, "bbox": box})
        of = rng.integers(0, OBJECTS, detections)
        near = boxes[of] + rng.normal(0, 1, (detections, 4)) * boxes[of][:, 2:].repeat(2, axis=1) / 8
        near[:, 2:] = np.maximum(near[:, 2:], 1)
        guessed = np.where(rng.random(detections) < 0.3, labels[of], rng.integers(1, classes + 1, detections))
        scores = rng.random((detections, 3))
        for box, label, score in zip(near.tolist(), guessed.tolist(), scores.tolist(), strict=True):
            row = {"image_id": image_id, "category_id": label, "bbox": box}
            rows.append({**row, **dict(zip(map(str, RankBy), score, strict=True))})
    document = {
        "images": [{"id": n, "width": SIDE, "height": SIDE} for n in range(1, images + 1)],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, classes + 1)],
        "annotations": annotations,
    }
    return document, rows


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and processor seconds."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


if __name__ == "__main__":
    main()
