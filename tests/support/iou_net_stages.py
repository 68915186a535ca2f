"""IoU-Net's stages in ONNX Runtime and the same in PyTorch, on random maps and a random predictor.

Letters: B images, N boxes of an image.
"""

from functools import lru_cache

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibox_export.iou_net.stage import predictor_stage, refine_stage
from calibox_training.iou_net.features import Levels, box_score, outputs_of_boxes
from calibox_training.iou_net.predictor import predicted_iou
from calibox_training.iou_net.prroi_pool import flatten_maps
from calibox_training.iou_net.refinement import Refined, refine
from calibox_training.iou_net.spec import RefinementSpec
from calibox_training.iou_net.windows import Maps
from tests.support.iou_net import hilly_predictor

SIZE = (480, 640)  # height, width; boxes of all three levels fit into it
LEVELS = Levels(3, 5)
CLASSES, FEATURES = 3, 4
Floats = NDArray[np.float32]
PREDICTOR = hilly_predictor(width=16, pooled=3, features=FEATURES, classes=CLASSES)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """A checked model, in ONNX Runtime on the CPU."""
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=8)
def refinement_session(spec: RefinementSpec) -> ort.InferenceSession:
    """Of the predictor."""
    return session(refine_stage(PREDICTOR, LEVELS, spec, height=SIZE[0], width=SIZE[1]))


@lru_cache(maxsize=1)
def quality_session() -> ort.InferenceSession:
    """Of the predictor."""
    return session(predictor_stage(PREDICTOR, LEVELS, height=SIZE[0], width=SIZE[1]))


def random_maps(images: int, *, seed: int = 0) -> list[Tensor]:
    """P3 to P5."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(SIZE[0] // stride, SIZE[1] // stride) for stride in (8, 16, 32)]
    return [torch.randn(images, FEATURES, height, width, generator=generator) for height, width in sizes]


def random_boxes(images: int, count: int, *, seed: int = 0) -> Tensor:
    """Inside the image, with sides of 8 to 1190 pixels before they are cut; some touch its border."""
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    centre = torch.rand(images, count, 2, generator=generator) * torch.tensor([width, height])
    half = torch.exp(torch.rand(images, count, 2, generator=generator) * 5) * 4
    limit = torch.tensor([width, height] * 2)
    return torch.cat([centre - half, centre + half], dim=2).clamp(min=0).minimum(limit)


def feeds(maps: list[Tensor], boxes: Tensor, **others: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    """Inputs of a stage."""
    return {f"map_{i}": values.numpy() for i, values in enumerate(maps)} | {"boxes": boxes.numpy()} | others


def refined_by_runtime(
    maps: list[Tensor], boxes: Tensor, labels: Tensor, steps: list[int], spec: RefinementSpec, *, q: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Boxes and IoU; `q` stands for every IoU before."""
    before = np.full(labels.shape, q, np.float32)
    others = {"labels": labels.int().numpy(), "refine_steps": np.array(steps, np.int32), "q": before}
    found, iou = refinement_session(spec).run(None, feeds(maps, boxes, **others))
    assert isinstance(found, np.ndarray)
    assert isinstance(iou, np.ndarray)
    return torch.from_numpy(found), torch.from_numpy(iou)


def refined_by_torch(maps: list[Tensor], boxes: Tensor, labels: Tensor, spec: RefinementSpec) -> Refined:
    """All boxes of all images, one after another."""
    images, count = labels.shape
    image = torch.arange(images).repeat_interleave(count)
    flat = boxes.reshape(-1, 4)
    score = box_score(PREDICTOR, flatten_maps(maps), flat, image, labels.reshape(-1), LEVELS)
    return refine(score, flat, torch.tensor([SIZE]).expand(len(flat), 2), spec)


def quality_by_torch(maps: list[Tensor], boxes: Tensor) -> Tensor:
    """Predicted IoU [B, N, C]."""
    images, count = boxes.shape[:2]
    image, flat = torch.arange(images).repeat_interleave(count), flatten_maps(maps)
    with torch.no_grad():
        found = predicted_iou(outputs(flat, boxes, image))
    return found.reshape(images, count, CLASSES)


def outputs(maps: Maps, boxes: Tensor, image: Tensor) -> Tensor:
    """Raw ones."""
    return outputs_of_boxes(PREDICTOR, maps, boxes.reshape(-1, 4), image, LEVELS)
