"""Augmentation and schedule as a recipe names them. Defaults are those of the first recipes."""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from calibox_training.parts import Fraction, NotNegative, Part, Positive

# A side of a training input: as `InputSpec` in calibox_core.manifest allows.
Side = Annotated[int, Field(ge=32, le=8192)]


class Augmentation(Part):
    """Training-time transforms (torchvision.transforms.v2)."""

    photometric: Fraction = Field(
        default=0.0, description="Probability of SSD's distortion: brightness, contrast, colour and channel order."
    )
    zoom_out: Fraction = Field(default=0.0, description="Probability of placing the image on a larger canvas.")
    zoom_out_max: Annotated[float, Field(ge=1)] = Field(
        default=2.0, description="Largest canvas, in image sides (SSD: 4)."
    )
    crop: Fraction = Field(default=0.0, description="Probability of a crop that keeps some overlap (SSD: 1).")
    crop_min_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.4, description="Smallest crop, in sides (SSD: 0.3)."
    )
    crop_overlaps: tuple[Fraction, ...] = Field(
        default=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        min_length=1,
        description="Least IoU of a crop with some object, one drawn per crop; 1 leaves the image whole (SSD's list).",
    )
    flip_horizontal: Fraction = Field(default=0.5, description="Probability.")
    flip_vertical: Fraction = Field(default=0.0, description="Probability; only where up and down mean nothing.")
    colour: Fraction = Field(default=0.0, description="Probability of a jitter of brightness, contrast and colour.")
    sizes: tuple[tuple[Side, Side], ...] = Field(
        default=(),
        description="Input sizes of training batches (height, width), one drawn per batch; none: the recipe's input.",
    )

    @model_validator(mode="after")
    def _a_crop_can_be_left_out(self) -> Self:
        # torchvision draws again until a crop fits, which in a picture without objects none does.
        if max(self.crop_overlaps) < 1:
            raise ValueError("crop_overlaps needs a 1 among its values: it leaves a picture whole that no crop fits")
        return self


class Schedule(Part):
    """Optimisation."""

    optimizer: Literal["sgd", "adamw"] = Field(default="sgd")
    learning_rate: Positive = Field(description="At the recipe's batch size; scaled by nothing.")
    momentum: Fraction = Field(default=0.9, description="SGD only.")
    weight_decay: NotNegative = Field(default=1e-4)
    epochs: Annotated[int, Field(ge=1)] = Field(description="Passes over the training split.")
    batch_size: Annotated[int, Field(ge=1)] = Field(description="Images per batch and process.")
    accumulate: Annotated[int, Field(ge=1)] = Field(default=1, description="Batches per optimiser step.")
    warmup_iterations: Annotated[int, Field(ge=0)] = Field(
        default=500, description="Optimiser steps, linear from warmup_factor."
    )
    warmup_factor: Annotated[float, Field(gt=0, le=1)] = Field(default=0.001)
    decay: Literal["cosine", "step", "plateau"] = Field(
        default="step", description="plateau: by the mean training loss of an epoch (LAAR)."
    )
    milestones: tuple[int, ...] = Field(default=(8, 11), description="Epochs after which `step` divides by ten.")
    plateau_patience: Annotated[int, Field(ge=0)] = Field(
        default=3, description="Epochs without a lower loss before `plateau` divides by ten (LAAR: 3)."
    )
    clip_norm: NotNegative = Field(default=35.0, description="Gradient norm limit; 0 for none.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="Weight averaging; 0 for none.")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(default="32-true", description="Lightning's name.")
    channels_last: bool = Field(default=True, description="Memory order of convolutions; true is the faster one.")
    freeze: tuple[str, ...] = Field(
        default=(),
        description="Prefixes of detector modules that are not trained in this stage, their batch-norm statistics "
        "included: `backbone`, `fpn`, `head.class_tower`, ...",
    )
    validate_every: Annotated[int, Field(ge=1)] = Field(default=1, description="Epochs between validations.")
    checkpoint_every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Optimiser steps between checkpoints inside an epoch; 0: one at the end of each epoch."
    )


# Folders that a run itself makes beside those of its stages.
TAKEN_NAMES = ("checkpoints", "logs")


class Stage(Part):
    """One of several trainings in a row, each from the weights of the one before."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)] = Field(
        description="Of its folder, below the run's."
    )
    set: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Values of the recipe that are others in this stage, by dotted path: `schedule.learning_rate`, "
        "`model.quality`, ... A value takes the whole place of the recipe's.",
    )

    @model_validator(mode="after")
    def _has_a_folder_of_its_own(self) -> Self:
        if self.name in TAKEN_NAMES:
            raise ValueError(f"a run has a folder {self.name} of its own; choose another name for the stage")
        return self
