"""What a system and its predictor say of a split, kept, so that every figure can be made again from the same outputs.

Letters: I images, K candidates, N boxes that a suppression left, S steps and the start, R boxes of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibox_core.dataset import DataFolder
from calibox_core.letterbox import Letterbox, letterbox_into
from calibox_core.manifest import InputSpec
from calibox_training.data.coco import ImageRecord, read_image, read_records
from calibox_training.iou_net.features import box_score, outputs_of_boxes
from calibox_training.iou_net.predictor import IouPredictor, output_of_class, predicted_iou
from calibox_training.iou_net.refinement import refinement_steps
from calibox_training.iou_net.spec import RefinementSpec
from calibox_training.iou_net.systems import BoxSystem, Candidates
from calibox_training.iou_net.windows import Maps
from calibox_training.reproduce.raw import RawError
from calibox_training.reproduce_iou_net.nms_methods import Left, Scored, guided_nms, standard_nms


@dataclass(frozen=True, slots=True)
class Moved:
    """What a suppression left of an image, and where steps took it; letterboxed pixels."""

    left: Left
    refined_NS4: NDArray[np.float32]  # after 0, 1, ... steps of the refinement
    regressed_NS4: NDArray[np.float32]  # after 0, 1, ... passes of the regressor; one without a regressor


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image."""

    record: ImageRecord
    letterbox: Letterbox
    scored: Scored
    standard: Moved
    guided: Moved


@dataclass(frozen=True, slots=True)
class Judge:
    """A system with the predictor that ranks and refines its boxes."""

    system: BoxSystem
    predictor: IouPredictor
    refinement: RefinementSpec

    @torch.no_grad()
    def maps(self, images: Tensor) -> Maps:
        """Features of uint8 images ``[B, H, W, 3]``."""
        return self.system.features.maps(images)

    @torch.no_grad()
    def score(self, images: Tensor, maps: Maps) -> tuple[Candidates, Tensor]:
        """Candidates of uint8 images ``[B, H, W, 3]``, and their predicted IoU ``[R]``."""
        found = self.system.candidates(images)
        levels = self.system.features.levels
        outputs = outputs_of_boxes(self.predictor, maps, found.boxes_R4, found.image_R, levels)
        return found, predicted_iou(output_of_class(outputs, found.label_R))

    def refine(self, maps: Maps, found: Candidates) -> NDArray[np.float32]:
        """Where the candidates are after each step, float32 ``[R, S, 4]``."""
        levels, size = self.system.features.levels, self.system.input
        score = box_score(self.predictor, maps, found.boxes_R4, found.image_R, found.label_R, levels)
        sizes = torch.tensor([[size.height, size.width]], device=found.boxes_R4.device).expand(len(found.boxes_R4), 2)
        steps = refinement_steps(score, found.boxes_R4, sizes, self.refinement)
        return numpy_of(torch.stack([step.boxes_R4 for step in steps], dim=1))

    @torch.no_grad()
    def regress(self, images: Tensor, found: Candidates) -> NDArray[np.float32]:
        """Where the candidates are after each pass of the regressor, as many as the refinement has steps."""
        boxes = [found.boxes_R4]
        for _ in range(self.refinement.steps):
            # Labels and scores stay: what changes from pass to pass is where the boxes are.
            moved = self.system.regress(images, found._replace(boxes_R4=boxes[-1]))
            if moved is None:
                break
            boxes.append(moved.boxes_R4)
        return numpy_of(torch.stack(boxes, dim=1))

    def image(self, image: Tensor) -> tuple[Scored, Moved, Moved]:
        """Everything of one uint8 image ``[H, W, 3]``."""
        images = image[None]
        maps = self.maps(images)
        found, q_R = self.score(images, maps)
        scored = Scored(numpy_of(found.boxes_R4), found.label_R.cpu().numpy(), numpy_of(found.p_R), numpy_of(q_R))
        standard, guided = standard_nms(scored), guided_nms(scored)
        ours, theirs = rows(found, guided), rows(found, standard)
        stays = scored.boxes_K4[guided.index_N][:, None]
        return (
            scored,
            Moved(standard, self.refine(maps, theirs), self.regress(images, theirs)),
            Moved(guided, self.refine(maps, ours), stays),
        )


def rows(found: Candidates, left: Left) -> Candidates:
    """The candidates that a suppression left."""
    index = torch.from_numpy(left.index_N).to(found.p_R.device)
    return Candidates(*(values[index] for values in found))


def numpy_of(values: Tensor) -> NDArray[np.float32]:
    """Float32 on the host."""
    found: NDArray[np.float32] = values.detach().float().cpu().numpy()
    return found


def letterboxed(folder: DataFolder, record: ImageRecord, size: InputSpec) -> Tensor:
    """An image as a system takes it, uint8 ``[H, W, 3]``."""
    slot = np.empty((size.height, size.width, 3), np.uint8)
    letterbox_into(slot, read_image(folder, record))
    return torch.from_numpy(slot)


# Of each image, by whose number of rows it is cut.
_ROWS = {
    "candidates": ("boxes", "label", "p", "q"),
    "standard": ("standard_index", "standard_score", "standard_refined", "standard_regressed"),
    "guided": ("guided_index", "guided_score", "guided_refined", "guided_regressed"),
}


def evaluate_raw(judge: Judge, folder: DataFolder, path: Path, *, device: torch.device) -> None:
    """Runs the validation split once and writes its outputs to ``path`` (npz, uncompressed)."""
    names = [name for group in _ROWS.values() for name in group]
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for record in read_records(folder.annotations("val"), judge.system.classes):
        scored, *moved = judge.image(letterboxed(folder, record, judge.system.input).to(device))
        values = [*scored, *(v for one in moved for v in (*one.left, one.refined_NS4, one.regressed_NS4))]
        for name, value in zip(names, values, strict=True):
            found[name].append(value)
    counts = {f"{group}_rows": np.array([len(v) for v in found[first]]) for group, (first, *_) in _ROWS.items()}
    arrays: dict[str, Any] = {**counts, **{name: np.concatenate(values) for name, values in found.items()}}
    scratch = path.with_name(f"{path.name}.part")
    with scratch.open("wb") as stream:
        np.savez(stream, **arrays)
    scratch.replace(path)


def read_raw(path: Path, size: InputSpec, records: Sequence[ImageRecord]) -> list[RawImage]:
    """What `evaluate_raw` wrote, image by image.

    Args:
        path: of the npz.
        size: of the system's input.
        records: of the validation split, in the order of their ids.

    Raises:
        RawError: the file cannot be read, or holds another number of images.
    """
    try:
        with np.load(path) as stored:
            images = {group: _images(stored, group) for group in _ROWS}
    except (OSError, ValueError, KeyError) as error:
        raise RawError(
            f"{path} cannot be read: {error}; delete the cell's trained.json to evaluate it again"
        ) from error
    if len(images["candidates"]) != len(records):
        raise RawError(f"{path} holds {len(images['candidates'])} images, the validation split {len(records)}")
    return [
        RawImage(record, letterbox_of(record, size), Scored(*scored), _moved(standard), _moved(guided))
        for record, scored, standard, guided in zip(records, *images.values(), strict=True)
    ]


def _images(stored: Any, group: str) -> list[list[NDArray[Any]]]:
    """The arrays of a group, cut into images."""
    ends = np.cumsum(stored[f"{group}_rows"])[:-1]
    columns = [np.split(stored[name], ends) for name in _ROWS[group]]
    return [list(image) for image in zip(*columns, strict=True)]


def _moved(arrays: Sequence[NDArray[Any]]) -> Moved:
    index, score, refined, regressed = arrays
    return Moved(Left(index, score), refined, regressed)


def letterbox_of(record: ImageRecord, size: InputSpec) -> Letterbox:
    """Where an image lies in a system's input."""
    return Letterbox.fit(width=record.width, height=record.height, input_width=size.width, input_height=size.height)
