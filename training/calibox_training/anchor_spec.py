"""Anchors as a recipe names them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from calibox_training.parts import Fraction, Part, Positive

FPN_LEVELS = 5  # P3 to P7


class AnchorSpec(Part):
    """Anchors of a level: base_size * stride * scale, for each aspect ratio (height / width)."""

    kind: Literal["grid"] = "grid"
    base_size: Positive = Field(default=4.0, description="Side in strides (RetinaNet: 4, ATSS and CLQ: 8).")
    scales: tuple[Positive, ...] = Field(
        default=(1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        min_length=1,
        description="Multiples of the base (RetinaNet: octaves in thirds).",
    )
    ratios: tuple[Positive, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1, description="Height over width.")
    offset: Fraction = Field(
        default=0.5, description="Position of the first centre, in strides (mmdetection, torchvision: 0)."
    )
    whole_pixels: bool = Field(
        default=False,
        description="torchvision's anchors: sides cut and corners rounded to pixels, and the step between centres is "
        "the input's size divided by the map's, cut to pixels.",
    )

    @property
    def per_location(self) -> int:
        """Anchors at each position."""
        return len(self.scales) * len(self.ratios)

    @property
    def per_level(self) -> tuple[int, ...]:
        """Anchors at each position of each level."""
        return (self.per_location,) * FPN_LEVELS


class SsdAnchorSpec(Part):
    """SSD's default boxes: sizes in pixels, ratios and steps per level. Defaults: SSD300 on VOC (the authors' code)."""

    kind: Literal["ssd"]
    sizes: tuple[Positive, ...] = Field(
        default=(30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0),
        min_length=3,
        description="Side of each level's square box in pixels, and one more: a level's second square has the "
        "geometric mean of its own side and the next.",
    )
    ratios: tuple[tuple[Positive, ...], ...] = Field(
        default=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
        description="Per level, width over height; each gives a box of that ratio and one of its inverse.",
    )
    inverses: bool = Field(default=True, description="false: each ratio gives one box (LED on KITTI).")
    steps: tuple[Positive, ...] = Field(
        default=(8.0, 16.0, 32.0, 64.0, 100.0, 300.0), description="Pixels between centres, per level."
    )
    clip: bool = Field(default=True, description="Sides are at most the input's (centres stay where they are).")

    @property
    def per_level(self) -> tuple[int, ...]:
        """Anchors at each position of each level."""
        return tuple(2 + (1 + self.inverses) * len(row) for row in self.ratios)

    @model_validator(mode="after")
    def _a_row_per_level(self) -> Self:
        levels = len(self.steps)
        if (len(self.sizes), len(self.ratios)) != (levels + 1, levels):
            raise ValueError(
                f"{levels} steps need {levels + 1} sizes and {levels} rows of ratios; "
                f"there are {len(self.sizes)} and {len(self.ratios)}"
            )
        return self


def _kind(value: Any) -> Any:
    """Recipes from before there was a choice name no kind."""
    return value.get("kind", "grid") if isinstance(value, dict) else getattr(value, "kind", None)


Anchors = Annotated[
    Annotated[AnchorSpec, Tag("grid")] | Annotated[SsdAnchorSpec, Tag("ssd")],
    Discriminator(_kind),
]
