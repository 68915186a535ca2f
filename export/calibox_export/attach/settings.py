"""The recipe of an attached IoU-Net from a file, defaults and options."""

from pathlib import Path
from typing import Any

import yaml

from calibox_core.errors import InvalidParameterError
from calibox_training.iou_net.attached import AttachedRecipe
from calibox_training.recipe import RecipeError, parse_as, with_overrides

Size = tuple[int | None, int | None]  # height, width


def require_one_source(detector: Path | None, train: Path | None, val: Path | None) -> None:
    """Raises InvalidParameterError unless there is either a file or both results."""
    files = [path is not None for path in (train, val)]
    if (detector is not None and any(files)) or (detector is None and not all(files)):
        raise InvalidParameterError(
            "name the detector: either --detector FILE.onnx, or both --train-detections and --val-detections"
        )


def recipe_of(path: Path | None, *, name: str, data: str, size: Size, given: dict[str, Any]) -> AttachedRecipe:
    """Defaults, over them the file, over both what the command line gives.

    Args:
        path: a YAML file with any values of `AttachedRecipe`.
        name: of the model.
        data: as it was named on the command line.
        size: of the input; the recipe's where None.
        given: values by dotted path, as for `with_overrides`.

    Raises:
        RecipeError: the file cannot be read, or a value is wrong.
    """
    try:
        document: Any = yaml.safe_load(path.read_text()) if path else {}
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    source = str(path) if path else "the recipe"
    if not isinstance(document or {}, dict):
        raise RecipeError(f"{source} is not a valid recipe: it must hold values by name")
    values = {"data": {"name": Path(data).name}, **(document or {}), "name": name}
    height, width = size
    if height is not None and width is not None:
        values["input"] = {"height": height, "width": width}
    if "input" not in values:
        raise RecipeError(
            "results alone do not say at which size to look at the images: give --height and --width in pixels"
        )
    return with_overrides(parse_as(AttachedRecipe, values, source=source), given)
