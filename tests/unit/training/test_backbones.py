"""Backbones with fewer channels."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torchvision.models import get_model

from calibox_training.model_spec import ModelSpec
from calibox_training.models.backbones import build_backbone
from calibox_training.recipe import RecipeError


@pytest.mark.parametrize(("width", "channels"), [(1.0, [128, 256, 512]), (0.25, [32, 64, 128])])
def test_the_width_scales_the_channels_of_every_stage(width: float, channels: list[int]) -> None:
    _, found = build_backbone(ModelSpec(backbone="resnet18", backbone_width=width))

    assert found == channels


def test_a_backbone_that_cannot_be_narrowed_is_refused() -> None:
    with pytest.raises(ValidationError, match="backbone_width needs one of resnet18, resnet34"):
        ModelSpec(backbone="resnet50", backbone_width=0.5)


def test_published_weights_do_not_fit_a_narrow_backbone(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(get_model("resnet18", weights=None).state_dict(), file)

    with pytest.raises(RecipeError, match="do not fit resnet18"):
        build_backbone(ModelSpec(backbone="resnet18", backbone_width=0.5, backbone_weights=str(file)))
