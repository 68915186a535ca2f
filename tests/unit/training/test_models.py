from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from calibox_core.fusion import Exponents, Fusion, FusionName, log_key
from calibox_training.inference import CandidateGraph
from calibox_training.model_spec import ModelSpec
from calibox_training.models.backbones import FEATURE_NODES, build_backbone
from calibox_training.models.detector import Detector
from calibox_training.models.heads import PRIOR, DenseHead
from calibox_training.pyramid import STRIDES
from calibox_training.recipe import RecipeError
from tests.support.recipes import tiny_recipe


@pytest.mark.parametrize("name", sorted(FEATURE_NODES))
def test_backbones_give_maps_at_strides_8_16_and_32(name: str) -> None:
    body, channels = build_backbone(ModelSpec.model_validate({"backbone": name}))
    body.eval()
    with torch.no_grad():
        maps = list(body(torch.zeros(1, 3, 64, 96)).values())
    assert [tuple(m.shape) for m in maps] == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, STRIDES, strict=False)]


def test_local_weights_are_loaded_by_torchvisions_names(tmp_path: Path) -> None:
    state = get_model("resnet18", weights=None).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    body, _ = build_backbone(ModelSpec(backbone="resnet18", backbone_weights=str(path)))
    torch.testing.assert_close(body.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


@pytest.mark.parametrize("weights", ["NO_SUCH_WEIGHTS", "ResNet50_Weights.DEFAULT"])
def test_weights_that_the_backbone_does_not_have_are_answered_with_those_that_it_has(weights: str) -> None:
    with pytest.raises(RecipeError, match=r"ResNet18_Weights\.IMAGENET1K_V1"):
        build_backbone(ModelSpec(backbone="resnet18", backbone_weights=weights))


def test_weights_of_another_backbone_are_refused_with_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(get_model("mobilenet_v3_large", weights=None).state_dict(), path)
    with pytest.raises(RecipeError, match="do not fit resnet18"):
        build_backbone(ModelSpec(backbone="resnet18", backbone_weights=str(path)))


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"garbage")
    with pytest.raises(RecipeError, match="cannot be read as a state dict"):
        build_backbone(ModelSpec(backbone="resnet18", backbone_weights=str(path)))


def test_weights_that_cannot_be_downloaded_are_a_sentence_with_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # discard: nobody listens
    with pytest.raises(RecipeError, match=r"https://.*resnet18.*could not be downloaded.*name the file"):
        build_backbone(ModelSpec(backbone="resnet18", backbone_weights="DEFAULT"))


def test_frozen_prefixes_take_no_gradient_and_frozen_statistics_stay() -> None:
    spec = ModelSpec(backbone="resnet18", frozen=("conv1", "layer1"), frozen_statistics=True, fpn_channels=16)
    detector = Detector(spec, classes=2).train()
    frozen = {n for n, p in detector.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in detector.backbone.named_parameters() if n.startswith(("conv1", "layer1"))}
    before = detector.backbone.state_dict()["bn1.running_mean"].clone()
    detector(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(detector.backbone.state_dict()["bn1.running_mean"], before)


def _head(norm: str = "none") -> DenseHead:
    anchors = {"scales": (1.0, 2.0), "ratios": (1.0,)}
    spec = {"backbone": "resnet18", "fpn_channels": 16, "tower_depth": 1, "norm": norm, "anchors": anchors}
    return DenseHead(ModelSpec.model_validate(spec), classes=3, levels=2)


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_a_fresh_head_believes_its_prior(norm: str) -> None:
    p = _head(norm)([torch.zeros(1, 16, 4, 4)]).class_BAC.sigmoid()
    torch.testing.assert_close(p, torch.full_like(p, PRIOR))


def test_levels_are_joined_finest_first_and_each_as_it_is_alone() -> None:
    head, maps = _head(), [torch.randn(2, 16, 4, 6), torch.randn(2, 16, 2, 3)]
    joined = head(maps)
    assert joined.class_BAC.shape == (2, (24 + 6) * 2, 3)
    assert joined.box_BAV.shape == (2, 60, 4)
    assert joined.quality_BAQ.shape == (2, 60, 1)
    for got, first, second in zip(joined, head(maps[:1]), head(maps[1:]), strict=True):
        torch.testing.assert_close(got, torch.cat([first, second], dim=1))


def test_flattened_predictions_follow_the_anchors_order() -> None:
    head = _head()
    torch.nn.init.zeros_(head.box_conv.weight)
    with torch.no_grad():
        head.box_conv.bias.copy_(torch.arange(8.0))
    deltas = head([torch.zeros(1, 16, 2, 2)]).box_BAV[0]
    torch.testing.assert_close(deltas, torch.arange(8.0).view(2, 4).repeat(4, 1))


@pytest.mark.parametrize("size", [(96, 128), (64, 64), (100, 75)])
def test_there_is_one_prediction_per_anchor(size: tuple[int, int]) -> None:
    detector = Detector(tiny_recipe().model, classes=2).eval()
    with torch.no_grad():
        found = detector(detector.normalise(torch.zeros(1, *size, 3, dtype=torch.uint8)))
    assert found.class_BAC.shape[1] == sum(detector.anchors(*size).counts)


@pytest.mark.parametrize("fusion", list(FusionName))
def test_candidates_are_each_levels_best_anchors_by_key(fusion: FusionName) -> None:
    exponents: Exponents = Fusion(name=fusion).exponents()
    torch.manual_seed(0)
    detector = Detector(tiny_recipe().model, classes=2).eval()
    for conv in (detector.head.class_conv, detector.head.quality_conv):
        torch.nn.init.normal_(conv.weight, std=1.0)
    images = torch.randint(0, 255, (2, 96, 128, 3), dtype=torch.uint8)
    fusions = torch.tensor([exponents, Exponents(1.0, 0.0, 0.0)])
    with torch.no_grad():
        everything = CandidateGraph(detector, height=96, width=128, per_level_top_k=10**6)(images, fusions)
        best = CandidateGraph(detector, height=96, width=128, per_level_top_k=50)(images, fusions)
    counts = detector.anchors(96, 128).counts
    assert best[0].shape == (2, sum(min(50, count) for count in counts), 4)
    for image in range(2):
        start = taken = 0
        for count in counts:
            p, q = (t[image, start : start + count].numpy() for t in everything[1:])
            keys = log_key(p.max(axis=1), q[:, 0], Exponents(*fusions[image].tolist()))
            kept = min(50, count)
            p_best, q_best = (t[image, taken : taken + kept].numpy() for t in best[1:])
            keys_best = log_key(p_best.max(axis=1), q_best[:, 0], Exponents(*fusions[image].tolist()))
            torch.testing.assert_close(
                torch.from_numpy(keys_best).sort().values, torch.from_numpy(keys).sort().values[count - kept :]
            )
            start, taken = start + count, taken + kept


def test_candidate_boxes_lie_inside_the_input() -> None:
    detector = Detector(tiny_recipe().model, classes=2).eval()
    torch.nn.init.normal_(detector.head.box_conv.weight, std=1.0)
    graph = CandidateGraph(detector, height=96, width=128, per_level_top_k=100)
    with torch.no_grad():
        boxes, _, _ = graph(torch.randint(0, 255, (1, 96, 128, 3), dtype=torch.uint8), torch.tensor([[1.0, 0.0, 0.0]]))
    assert boxes.min() >= 0
    assert boxes[..., 0::2].max() <= 128
    assert boxes[..., 1::2].max() <= 96
