import pytest
import torch
from torch import Tensor

from calibox_training.models.localization_estimation import LocalizationEstimation
from calibox_training.quality_spec import LedQuality

ANCHORS, FEATURES, CLASSES, BOX = 3, 20, 9, 12


def _module(spec: LedQuality) -> LocalizationEstimation:
    torch.manual_seed(0)
    return LocalizationEstimation(FEATURES, CLASSES, BOX, ANCHORS, spec)


def _maps(height: int = 5, width: int = 7) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, channels, height, width, requires_grad=True) for channels in (FEATURES, CLASSES, BOX)]


@pytest.mark.parametrize(("coarse_to_fine", "values"), [(True, 24), (False, 3)])
@pytest.mark.parametrize("rich", [True, False])
def test_every_position_has_the_estimates_of_its_anchors(coarse_to_fine: bool, values: int, rich: bool) -> None:
    spec = LedQuality(coarse_to_fine=coarse_to_fine, rich_features=rich, channels=4)
    assert spec.values == values
    assert _module(spec)(*_maps()).shape == (2, ANCHORS * values, 5, 7)
    assert _module(spec)(*_maps(1, 1)).shape == (2, ANCHORS * values, 1, 1)


def test_richer_features_are_those_of_the_paper_in_number() -> None:
    richer = _module(LedQuality()).richer
    assert richer is not None
    shapes = {name: tuple(p.shape) for name, p in richer.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "from_class.weight": (128, CLASSES, 3, 3),
        "from_box.weight": (128, BOX, 3, 3),
        "base.weight": (256, FEATURES, 1, 1),
        "context.weight": (256, FEATURES, 3, 3),
    }


def _reached(module: LocalizationEstimation) -> list[bool]:
    """Whether the gradient reaches the feature, the class map and the box map."""
    maps = _maps()
    module(*maps).square().sum().backward()
    return [m.grad is not None and bool((m.grad != 0).any()) for m in maps]


def test_gradients_reach_the_class_and_box_maps_through_the_richer_features_only() -> None:
    assert _reached(_module(LedQuality(channels=4))) == [True, True, True]
    assert _reached(_module(LedQuality(channels=4, rich_features=False))) == [True, False, False]


def test_the_context_reaches_two_positions_further_than_the_feature_itself() -> None:
    """Receptive field on the level's feature: 1x1 or 5x5 (dilated 3x3), then 3x3: 7x7 in all, and no more."""
    module = _module(LedQuality(channels=4))
    maps = [m.detach().requires_grad_() for m in _maps(11, 11)]
    module(*maps)[:, :, 5, 5].sum().backward()
    assert maps[0].grad is not None
    seen = (maps[0].grad != 0).any(dim=(0, 1)).nonzero()
    assert (seen.amin(dim=0).tolist(), seen.amax(dim=0).tolist()) == ([2, 2], [8, 8])
