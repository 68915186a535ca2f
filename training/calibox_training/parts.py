"""What every group of a recipe's values is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A group of values; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
