"""How a foreign detector's ONNX file is to be read: hints of its user, and the whole description they settle to."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from calibox_export.errors import ExportError
from calibox_training.parts import Part, Positive

Layout = Literal["nchw", "nhwc", "chw", "hwc"]
BoxForm = Literal["xyxy", "xywh", "cxcywh"]
BoxUnit = Literal["pixels", "fraction"]
Activation = Literal["none", "sigmoid", "softmax"]
Three = tuple[float, float, float]
Side = Annotated[int, Field(ge=32, le=8192)]

BOX_FORMS: tuple[BoxForm, ...] = ("xyxy", "xywh", "cxcywh")
BOX_UNITS: tuple[BoxUnit, ...] = ("pixels", "fraction")


class ForeignHints(Part):
    """What the user says of the file; what is left out is looked up in it, or found by trying it on training images."""

    input: str | None = Field(default=None, description="Name of the image input; the only one by default.")
    layout: Layout | None = Field(
        default=None, description="Axes of the input, of one picture where n is missing; by default where its 3 stands."
    )
    channels: Literal["rgb", "bgr"] = Field(default="rgb", description="Order of the colours.")
    scale: Positive = Field(default=1 / 255, description="What pixels 0..255 are multiplied by, before mean and std.")
    mean: Three = Field(default=(0.0, 0.0, 0.0), description="Subtracted from the scaled channels, in their order.")
    std: Three = Field(default=(1.0, 1.0, 1.0), description="What the rest is divided by.")
    height: Side | None = Field(default=None, description="Rows of the input; needed where the file leaves them open.")
    width: Side | None = Field(default=None, description="Columns of the input.")
    boxes: str | None = Field(default=None, description="Output with boxes [N, 4] or [B, N, 4].")
    scores: str | None = Field(
        default=None, description="Output with a score per box, or with one per box and class [B, N, C]."
    )
    labels: str | None = Field(default=None, description="Output with a class number per box.")
    box_form: BoxForm | None = Field(default=None, description="Corners, corner and size, or centre and size.")
    box_unit: BoxUnit | None = Field(default=None, description="Pixels of the input, or 0..1 of its sides.")
    label_offset: int | Literal["category_ids"] | None = Field(
        default=None,
        description="Number (or column of the scores) of the first class: torchvision's 1, behind the background. "
        "category_ids: the numbers are the ids in the annotations.",
    )
    activation: Activation = Field(default="none", description="Of scores that are not 0..1 yet.")

    @model_validator(mode="after")
    def _divides_by_something(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")
        return self


class ForeignSpec(ForeignHints):
    """The whole description."""

    input: str
    layout: Layout
    height: Side
    width: Side
    boxes: str
    scores: str
    box_form: BoxForm
    box_unit: BoxUnit
    label_offset: int | Literal["category_ids"]

    @property
    def takes_one(self) -> bool:
        """Whether the input is a single picture without an axis of images."""
        return "n" not in self.layout


def read_hints(path: Path | None) -> ForeignHints:
    """A YAML or JSON file of `ForeignHints`; none at all without a file.

    Raises:
        ExportError: it cannot be read, or a key or value is wrong; the text lists each.
    """
    if path is None:
        return ForeignHints()
    try:
        document: Any = yaml.safe_load(path.read_text())
        return ForeignHints.model_validate(document or {})
    except (OSError, yaml.YAMLError) as error:
        raise ExportError(f"{path} cannot be read as YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ExportError(f"{path} does not describe a detector: {wrong}") from error


def class_numbers(label_offset: int | str, category_ids: list[int]) -> list[int]:
    """What the detector calls each class: label, or column of its scores."""
    if label_offset == "category_ids":
        return category_ids
    return [int(label_offset) + c for c in range(len(category_ids))]
