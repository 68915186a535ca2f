"""What the server found, typed: numbers as it wrote them, and numpy arrays of the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calibox_client.errors import ImageInputError, MissingPackageError
from calibox_client.images import ImageInput, open_upright

if TYPE_CHECKING:
    import pandas
    import supervision

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Detection:
    """One object."""

    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the upright image
    label: str
    label_id: int  # category id of the data set
    score: float  # the reported, calibrated combination of the two below, 0..1
    classification_score: float  # is it this class, 0..1
    localization_score: float  # how well does the box fit: an expected IoU, 0..1

    def as_json(self) -> dict[str, Any]:
        """The detection as the server writes it."""
        return {
            "box": list(self.box),
            "label": self.label,
            "label_id": self.label_id,
            "score": self.score,
            "classification_score": self.classification_score,
            "localization_score": self.localization_score,
        }

    def as_coco(self) -> dict[str, Any]:
        """An entry of a COCO results list without its image: ``bbox`` is x, y, width, height in pixels.

        ``classification_score`` and ``localization_score`` are further keys; COCO's own tools leave them alone.
        """
        x1, y1, x2, y2 = self.box
        return {
            "category_id": self.label_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": self.score,
            "classification_score": self.classification_score,
            "localization_score": self.localization_score,
        }


@dataclass(frozen=True)
class Detections:
    """What was found in one image: a sequence of `Detection`, best first, and the same as read-only arrays.

    Attributes:
        detections: the objects, in the server's order (falling rank).
        width, height: of the upright image, in pixels.
        model, version: what answered.
        timing: milliseconds that the server spent per stage, over the whole request.
    """

    detections: tuple[Detection, ...]
    width: int
    height: int
    model: str
    version: str
    timing: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.detections)

    def __getitem__(self, index: int) -> Detection:
        return self.detections[index]

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """float32 ``[N, 4]``: x1, y1, x2, y2 in pixels of the upright image."""
        return _read_only(np.array([d.box for d in self.detections], np.float32).reshape(-1, 4))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Class names, N of them."""
        return tuple(d.label for d in self.detections)

    @cached_property
    def label_ids(self) -> NDArray[np.int64]:
        """int64 ``[N]``: category ids of the data set."""
        return _read_only(np.array([d.label_id for d in self.detections], np.int64))

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """float32 ``[N]``, 0..1: the reported score."""
        return _read_only(np.array([d.score for d in self.detections], np.float32))

    @cached_property
    def classification_scores(self) -> NDArray[np.float32]:
        """float32 ``[N]``, 0..1."""
        return _read_only(np.array([d.classification_score for d in self.detections], np.float32))

    @cached_property
    def localization_scores(self) -> NDArray[np.float32]:
        """float32 ``[N]``, 0..1: expected IoU."""
        return _read_only(np.array([d.localization_score for d in self.detections], np.float32))

    def as_json(self) -> dict[str, Any]:
        """Plain values: one entry of the server's ``results`` with the model's name and version."""
        return {
            "model": self.model,
            "version": self.version,
            "width": self.width,
            "height": self.height,
            "detections": [d.as_json() for d in self.detections],
        }

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of a COCO results list for the image of this id, best first; see `Detection.as_coco`."""
        return [{"image_id": image_id, **found.as_coco()} for found in self.detections]

    def to_pandas(self) -> "pandas.DataFrame":
        """A table with one row per object, best first.

        Columns: ``x1``, ``y1``, ``x2``, ``y2`` in pixels of the upright image, ``label``, ``label_id``, ``score``,
        ``classification_score``, ``localization_score``; numbers as the server wrote them, in float64.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingPackageError(
                "to_pandas() needs the package pandas; install it with: pip install 'calibox[pandas]'"
            ) from error
        corners = np.array([one.box for one in self.detections], np.float64).reshape(-1, 4)
        table = pandas.DataFrame(corners, columns=["x1", "y1", "x2", "y2"])
        table["label"] = pandas.Series(self.labels, dtype=str)
        table["label_id"] = self.label_ids
        for name in ("score", "classification_score", "localization_score"):
            table[name] = np.array([getattr(one, name) for one in self.detections], np.float64)
        return table

    def to_supervision(self) -> "supervision.Detections":
        """The same as ``supervision.Detections``: confidence is the reported score, class_id the category id.

        ``data`` holds ``class_name``, ``classification_score`` and ``localization_score``.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingPackageError(
                "to_supervision() needs the package supervision; install it with: pip install 'calibox[supervision]'"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.label_ids.copy(),
            data={
                "class_name": np.array(self.labels, dtype=np.str_),
                "classification_score": self.classification_scores.copy(),
                "localization_score": self.localization_scores.copy(),
            },
        )

    def draw(self, image: ImageInput) -> Image.Image:
        """A new RGB picture: ``image``, upright, with every box, its class and its three scores.

        Args:
            image: the image that was sent, in any form that `detect` takes.

        Raises:
            ImageInputError: it cannot be read, or its size is not that of the image that was sent.
        """
        from calibox_client.drawing import draw_detections

        picture = open_upright(image)
        if picture.size != (self.width, self.height):
            raise ImageInputError(
                f"these detections are of an image of {self.width} x {self.height} pixels, "
                f"this one has {picture.width} x {picture.height}; draw on the image that was sent"
            )
        return draw_detections(picture, self.detections)


def _read_only(values: NDArray[_Number]) -> NDArray[_Number]:
    values.setflags(write=False)
    return values
