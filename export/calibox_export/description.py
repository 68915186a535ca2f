"""The manifest of a trained model."""

from datetime import UTC, datetime

import torch
from pydantic import TypeAdapter, ValidationError

from calibox_core import __version__
from calibox_core.errors import InvalidParameterError
from calibox_core.manifest import Manifest, ModelName, ModelVersion, Provenance
from calibox_training.checkpoint import TrainedModel

_NAME, _VERSION = TypeAdapter(ModelName), TypeAdapter(ModelVersion)


def describe(trained: TrainedModel, *, name: str, version: str) -> Manifest:
    """The manifest of a trained model, before its files are known.

    Raises:
        InvalidParameterError: the name is no folder name of a model, or the version no whole number from 1.
    """
    recipe = trained.recipe
    for what, value, kind in (("name", name, _NAME), ("version", version, _VERSION)):
        try:
            kind.validate_python(value)
        except ValidationError as error:
            raise InvalidParameterError(f"{what} {value!r} will not do: {error.errors()[0]['msg']}") from error
    return Manifest(
        name=name,
        version=version,
        description=recipe.description,
        classes=trained.classes,
        input=recipe.input,
        fusion=recipe.fusion,
        thresholds=recipe.thresholds,
        nms=recipe.nms,
        quality=recipe.quality,
        dataset=trained.dataset,
        provenance=Provenance(
            recipe_name=recipe.name,
            recipe=recipe.model_dump(mode="json"),
            commit=trained.commit,
            seed=recipe.seed,
            calibox_version=__version__,
            torch_version=torch.__version__,
            created=datetime.now(UTC).replace(microsecond=0),
        ),
        measured={"val": trained.metrics} if trained.metrics else {},
    )
