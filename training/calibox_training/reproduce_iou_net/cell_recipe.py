"""What a cell is made of: a detector, a predictor on its features, and how boxes are refined."""

from typing import Any

from pydantic import Field, ValidationError

from calibox_training.iou_net.spec import JitterSpec, PredictorSpec, RefinementSpec
from calibox_training.parts import Part
from calibox_training.recipe import DataSource, RecipeError
from calibox_training.training_spec import Schedule


class PredictorRecipe(Part):
    """A predictor trained on the frozen features of the detector."""

    network: PredictorSpec = Field(default_factory=PredictorSpec)
    jitter: JitterSpec = Field(default_factory=JitterSpec)
    schedule: Schedule


class CellRecipe(Part):
    """The document of a cell."""

    name: str
    seed: int
    data: DataSource
    detector: dict[str, Any] = Field(description="Document of its recipe, of any kind, without name, seed and data.")
    predictor: PredictorRecipe | None = Field(
        default=None, description="None: the detector has a predictor of its own, trained jointly."
    )
    refinement: RefinementSpec = Field(default_factory=RefinementSpec)

    @property
    def detector_document(self) -> dict[str, Any]:
        """The whole document of the detector's recipe."""
        return {**self.detector, "name": self.name, "seed": self.seed, "data": self.data.model_dump(mode="json")}


def parse_cell(document: dict[str, Any], *, source: str) -> CellRecipe:
    """Validates a cell's document; ``source`` is named in errors.

    Raises:
        RecipeError: a key is unknown or missing, or a value is out of range; the detector's are not looked at.
    """
    try:
        return CellRecipe.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{source} is no cell of IoU-Net's comparison: {wrong}") from error
