"""SSD's own parts: layers, maps, default boxes, matching and the mined loss, against loops and torchvision."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torchvision.models import vgg16
from torchvision.models.detection._utils import BoxCoder as TheirCoder
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from calibox_core.boxes import intersection_area
from calibox_training.anchor_spec import SsdAnchorSpec
from calibox_training.anchors import AnchorSet, default_boxes
from calibox_training.assigner import BACKGROUND, MaxIouAssigner
from calibox_training.criterion import Criterion
from calibox_training.losses import mined_cross_entropy
from calibox_training.model_spec import AssignerSpec, ModelSpec
from calibox_training.models.backbones import build_backbone, load_backbone_weights
from calibox_training.models.detector import Detector
from calibox_training.models.heads import PRIOR, HeadOutput
from calibox_training.models.scores import class_scores
from calibox_training.models.ssd_layers import Vgg16
from calibox_training.objects import Objects
from calibox_training.pyramid import map_shapes
from calibox_training.recipe import Recipe, RecipeError, load_recipe, with_overrides
from tests.support.systems import SIZE, run, system

NARROW = {"model.backbone_width": 0.0625, "model.backbone_weights": "none"}


def _narrow(name: str) -> Recipe:
    return with_overrides(load_recipe(name), NARROW)


@pytest.mark.parametrize(
    ("name", "sides", "boxes"),
    [
        ("ssd300_voc", [38, 19, 10, 5, 3, 1], 8732),
        ("ssd512_voc", [64, 32, 16, 8, 4, 2, 1], 24564),
    ],
)
def test_the_maps_and_default_boxes_are_the_published_ones(name: str, sides: list[int], boxes: int) -> None:
    recipe = _narrow(name)
    size = (recipe.input.height, recipe.input.width)
    assert map_shapes(recipe.model, *size) == tuple((side, side) for side in sides)
    assert len(Detector(recipe.model, classes=20).anchors(*size).boxes_A4) == boxes


@pytest.mark.parametrize("size", [(300, 300), (268, 401), (270, 577)])
@pytest.mark.parametrize("name", ["ssd300_voc", "ssd512_voc"])
def test_a_forward_pass_gives_maps_of_the_computed_shapes(name: str, size: tuple[int, int]) -> None:
    spec = _narrow(name).model
    detector = Detector(spec, classes=2).eval()
    assert detector.ssd is not None
    with torch.no_grad():
        maps = detector.ssd(detector.backbone(torch.zeros(1, 3, *size)))
        found = detector.head(maps)
    assert tuple(level.shape[2:] for level in maps) == map_shapes(spec, *size)
    assert found.class_BAC.shape[1] == found.box_BAV.shape[1] == len(detector.anchors(*size).boxes_A4)


def test_fewer_levels_of_anchors_leave_out_the_last_extra_layers() -> None:
    detector = Detector(system("ssd").model, classes=2)
    assert detector.ssd is not None
    assert len(detector.ssd.layers) == 2
    assert len(detector.anchors(96, 128).counts) == 4


def test_an_input_that_the_layers_leave_nothing_of_is_refused_with_the_recipe() -> None:
    with pytest.raises(RecipeError, match="256x300 pixels is too small for 6 levels of ssd300"):
        with_overrides(_narrow("ssd300_voc"), {"input.height": 256})
    with pytest.raises(RecipeError, match="128x128 pixels is too small"):
        with_overrides(_narrow("ssd300_voc"), {"augmentation.sizes": [[128, 128]]})


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"model.neck": "fpn"}, "go together"),
        ({"model.backbone": "resnet18"}, "go together"),
        ({"model.anchors": {}}, "go together"),
        ({"model.head": "towers"}, "head: single"),
        ({"model.align": True, "model.anchors.ratios": [[]] * 6}, "align"),
        ({"model.box.level_scales": True}, "belong to head towers"),
        ({"model.anchors.steps": [8, 16]}, "2 steps need 3 sizes"),
        ({"model.class_activation": "sigmoid"}, "go together"),
        ({"loss.box_weighting": "score"}, "needs sigmoid scores"),
        ({"loss.joint_alpha": 0.3}, "needs a quality branch"),
    ],
)
def test_parts_of_ssd_that_do_not_fit_are_refused_in_a_sentence(overrides: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        with_overrides(_narrow("laar_ssd300_voc"), overrides)


def test_more_levels_than_maps_are_refused() -> None:
    with pytest.raises(RecipeError, match="the anchors have 7 levels; ssd300 has 6 maps"):
        with_overrides(_narrow("ssd512_voc"), {"model.extra_layers": "ssd300"})


def test_vgg16_has_torchvisions_names_and_shapes() -> None:
    with torch.device("meta"):
        theirs = {name: value.shape for name, value in vgg16(weights=None).state_dict().items()}
        ours = {name: value.shape for name, value in Vgg16().state_dict().items()}
    assert ours == {name: shape for name, shape in theirs.items() if name.startswith("features")}


def test_the_nan_classifier_of_published_vgg_features_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = Vgg16(width=0.0625).state_dict() | {"classifier.0.weight": torch.full((2, 2), float("nan"))}
    torch.save(state, tmp_path / "features.pth")
    body = Vgg16(width=0.0625)
    load_backbone_weights(body, "vgg16", str(tmp_path / "features.pth"))
    assert torch.equal(body.features[28].weight, state["features.28.weight"])


@pytest.mark.parametrize(("width", "channels"), [(1.0, [512, 512]), (0.25, [128, 128]), (0.01, [8, 8])])
def test_the_width_scales_vgg_down_to_eight_channels(width: float, channels: list[int]) -> None:
    spec = ModelSpec.model_validate({**load_recipe("ssd300_voc").model.model_dump(), "backbone_width": width})
    spec = spec.model_copy(update={"backbone_weights": "none"})
    assert build_backbone(spec)[1] == channels


def test_conv4_3_is_normalised_over_channels_and_scaled() -> None:
    detector = Detector(_narrow("ssd300_voc").model, classes=2).eval()
    assert detector.ssd is not None
    with torch.no_grad():
        maps = detector.backbone(torch.rand(1, 3, 300, 300) * 100)
        fine = detector.ssd(maps)[0]
    raw = maps["conv4_3"][0, :, 5, 7]
    wanted = 20 * math.sqrt(32 / 512) * raw / raw.norm()  # 32 of VGG16's 512 channels
    torch.testing.assert_close(fine[0, :, 5, 7], wanted)


def test_default_boxes_follow_sizes_ratios_and_steps_in_a_plain_loop() -> None:
    spec = SsdAnchorSpec(kind="ssd", sizes=(30.0, 60.0, 90.0), ratios=((2.0,), (2.0, 3.0)), steps=(8.0, 20.0))
    found = default_boxes(spec, [(2, 3), (1, 2)], size=(70, 80))
    expected: list[list[float]] = []
    rows = [(2, 3, 8.0, 30.0, 60.0, (2.0,)), (1, 2, 20.0, 60.0, 90.0, (2.0, 3.0))]
    for height, width, step, own, following, ratios in rows:
        sides = [(own, own), (math.sqrt(own * following),) * 2]
        for ratio in ratios:
            sides += [(own * ratio**0.5, own / ratio**0.5), (own / ratio**0.5, own * ratio**0.5)]
        for row in range(height):
            for column in range(width):
                for w, h in ((min(w, 80), min(h, 70)) for w, h in sides):
                    x, y = (column + 0.5) * step, (row + 0.5) * step
                    expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    torch.testing.assert_close(found.boxes_A4, torch.tensor(expected))
    assert found.counts == (24, 12)
    assert found.stride_A.tolist() == [8.0] * 24 + [20.0] * 12


def test_default_boxes_are_torchvisions() -> None:
    spec = load_recipe("torchvision_ssd300").model
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    theirs = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=scales, steps=[8, 16, 32, 64, 100, 300]
    )
    shapes = map_shapes(spec, 300, 300)
    wanted = theirs(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), [torch.zeros(1, 1, *s) for s in shapes])[0]
    assert isinstance(spec.anchors, SsdAnchorSpec)
    torch.testing.assert_close(default_boxes(spec.anchors, shapes, size=(300, 300)).boxes_A4, wanted, rtol=0, atol=1e-4)


def _boxes(generator: torch.Generator, count: int) -> Tensor:
    """On whole pixels, so that several anchors may overlap an object equally well."""
    corner = torch.randint(0, 12, (count, 2), generator=generator).float()
    return torch.cat([corner, corner + torch.randint(3, 9, (count, 2), generator=generator)], dim=1)


@given(seed=st.integers(0, 2**32 - 1), objects=st.integers(1, 6))
def test_matching_is_torchvisions(seed: int, objects: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, boxes = _boxes(generator, 60), _boxes(generator, objects)
    spec = AssignerSpec(positive_iou=0.5, negative_iou=0.5, claims="first_best")
    real = torch.ones(1, objects, dtype=torch.bool)
    found = MaxIouAssigner(spec)(AnchorSet(anchors, torch.ones(60), (60,)), boxes[None], real, ~real)
    wanted = SSDMatcher(0.5)(box_iou(boxes, anchors))
    assume(box_iou(boxes, anchors).amax(dim=1).min() > 0)  # an object that no anchor touches claims none here
    assert found.object_BA[0].tolist() == wanted.tolist()


def _mined_in_a_loop(logits: Tensor, labels: list[int], candidates: list[bool], ratio: float) -> list[float]:
    losses, background = [], []
    for row, label in zip(logits.double(), labels, strict=True):
        total = math.log(sum(math.exp(value) for value in row.tolist()))
        losses.append(total - row[label].item())
        background.append(total - row[0].item())
    order = sorted((a for a in range(len(labels)) if candidates[a]), key=lambda a: (-background[a], a))
    kept = set(order[: math.ceil(ratio * sum(label > 0 for label in labels))])
    return [loss if label > 0 or a in kept else 0.0 for a, (loss, label) in enumerate(zip(losses, labels, strict=True))]


@given(
    seed=st.integers(0, 2**32 - 1), ratio=st.sampled_from([0.0, 0.5, 1.0, 3.0, 100.0]), share=st.sampled_from([0, 0.1])
)
def test_the_mined_loss_agrees_with_a_loop(seed: int, ratio: float, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few different rows, so that many tie, and clearly different losses, so that rounding makes no order of its own.
    rows = torch.tensor([[0.0, value, 0.5, -1.0] for value in range(-3, 4)])
    logits = rows[torch.randint(len(rows), (2, 40), generator=generator)]
    kind = torch.rand(2, 40, generator=generator)
    labels = torch.where(kind < share, torch.randint(1, 4, (2, 40), generator=generator), 0)
    candidate = kind > 0.3  # the rest of the background is ignored
    found = mined_cross_entropy(logits, labels, candidate, negative_ratio=ratio)
    wanted = [_mined_in_a_loop(logits[i], labels[i].tolist(), candidate[i].tolist(), ratio) for i in range(len(logits))]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def test_mining_passes_no_gradient_to_what_it_leaves_out() -> None:
    logits = torch.tensor([[[0.0, 2.0], [0.0, 1.0], [0.0, 0.5], [0.0, 3.0]]]).requires_grad_()
    labels, candidate = torch.tensor([[1, 0, 0, 0]]), torch.tensor([[False, True, True, False]])
    mined_cross_entropy(logits, labels, candidate, negative_ratio=1.0).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[0] != 0).any(dim=1).tolist() == [True, True, False, False]


def test_anchors_inside_a_crowd_are_never_mined() -> None:
    recipe = system("ssd")
    detector = Detector(recipe.model, classes=2)
    anchors = detector.anchors(96, 128)
    crowd = Objects(
        torch.tensor([[[0.0, 0.0, 64.0, 96.0], [80.0, 30.0, 110.0, 60.0]]]),
        torch.tensor([[-1, 1]]),
        torch.tensor([[True, False]]),
    )
    # The hardest background lies in the crowd.
    logits = torch.zeros(1, len(anchors.boxes_A4), 3)
    logits[0, anchors.centre_A2[:, 0] < 32, 1] = 9.0
    logits.requires_grad_()
    found = HeadOutput(logits, torch.zeros(1, len(anchors.boxes_A4), 4), None)
    Criterion(recipe.model, recipe.loss)(found, anchors, crowd).classification.backward()
    assert logits.grad is not None
    taught = (logits.grad[0] != 0).any(dim=1)
    boxes = anchors.boxes_A4[taught]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).numpy()
    inside = intersection_area(crowd.boxes_BG4[0, :1].numpy(), boxes.numpy())[0] / area
    assert taught.sum() == 4  # the positive and three times as much background
    assert inside.max() <= 0.5 + 1e-6


def _their_losses(recipe: Recipe, found: HeadOutput, anchors: Tensor, objects: Objects) -> dict[str, Tensor]:
    """torchvision's own loss, called without the rest of its SSD."""
    model = SSD.__new__(SSD)
    torch.nn.Module.__init__(model)
    model.box_coder, model.neg_to_pos_ratio = TheirCoder(weights=(10.0, 10.0, 5.0, 5.0)), recipe.loss.negative_ratio
    real = [labels >= 0 for labels in objects.labels_BG]
    targets = [
        {"boxes": boxes[keep], "labels": labels[keep] + 1}
        for boxes, labels, keep in zip(objects.boxes_BG4, objects.labels_BG, real, strict=True)
    ]
    matched = [SSDMatcher(0.5)(box_iou(target["boxes"], anchors)) for target in targets]
    head = {"bbox_regression": found.box_BAV, "cls_logits": found.class_BAC}
    losses: dict[str, Tensor] = model.compute_loss(targets, head, [anchors] * len(targets), matched)
    return losses


def test_the_losses_are_torchvisions() -> None:
    recipe = system("ssd")
    anchors = Detector(recipe.model, classes=2).anchors(96, 128)
    generator = torch.Generator().manual_seed(0)
    count = len(anchors.boxes_A4)
    found = HeadOutput(
        torch.randn(2, count, 3, generator=generator), torch.randn(2, count, 4, generator=generator), None
    )
    boxes = torch.tensor(
        [[[10.0, 10, 50, 50], [60, 20, 100, 90], [0, 0, 0, 0]], [[5, 5, 20, 30], [30, 40, 99, 80], [70, 0, 120, 33]]]
    )
    objects = Objects(boxes, torch.tensor([[0, 1, -1], [1, 1, 0]]), torch.zeros(2, 3, dtype=torch.bool))
    ours = Criterion(recipe.model, recipe.loss)(found, anchors, objects)
    theirs = _their_losses(recipe, found, anchors.boxes_A4, objects)
    torch.testing.assert_close(ours.classification, theirs["classification"])
    torch.testing.assert_close(ours.box, theirs["bbox_regression"])


def test_softmax_scores_leave_the_background_out() -> None:
    logits = torch.tensor([[[0.0, math.log(2.0), math.log(5.0)]]], dtype=torch.bfloat16)
    found = class_scores(logits, "softmax")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[[2 / 8, 5 / 8]]]), atol=2e-3, rtol=0)
    assert class_scores(logits, "sigmoid").shape == (1, 1, 3)


def test_an_unmatched_anchor_below_the_threshold_is_background() -> None:
    spec = AssignerSpec(positive_iou=0.5, negative_iou=0.5, claims="first_best")
    twins = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]])
    boxes, real = torch.tensor([[[0.0, 0.0, 10.0, 4.0]]]), torch.ones(1, 1, dtype=torch.bool)
    anchors = AnchorSet(twins, torch.ones(3), (3,))
    assert MaxIouAssigner(spec)(anchors, boxes, real, ~real).object_BA.tolist() == [[0, BACKGROUND, BACKGROUND]]
    every = spec.model_copy(update={"claims": "every_best"})
    assert MaxIouAssigner(every)(anchors, boxes, real, ~real).object_BA.tolist() == [[0, 0, BACKGROUND]]


def test_an_anchor_spec_of_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="grid"):
        ModelSpec.model_validate({"backbone": "resnet18", "anchors": {"kind": "other"}})


SOFTMAX = {"model__class_activation": "softmax", "loss__classification": "softmax"}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("laar", {"model__head": "single"}),
        ("laar", SOFTMAX),
        ("laar", {**SOFTMAX, "model__head": "single"}),
        ("laar_ssd", {"model__class_activation": "sigmoid", "loss__classification": "focal"}),
        ("laar_ssd", {"model__quality": {"method": "iou_aware"}}),
    ],
)
def test_neck_head_and_activation_combine(name: str, overrides: dict[str, object]) -> None:
    recipe = system(name, **overrides)
    detector, found, losses = run(recipe)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())
    count = len(detector.anchors(*SIZE).boxes_A4)
    assert found.class_BAC.shape == (2, count, 2 + (recipe.model.class_activation == "softmax"))
    assert found.quality_BAQ is not None
    assert found.quality_BAQ.shape == (2, count, 1)


def test_a_fresh_single_head_with_sigmoids_believes_its_prior() -> None:
    recipe = system("laar_ssd", model__class_activation="sigmoid", loss__classification="focal")
    found = run(recipe)[0].head([torch.zeros(1, c, 2, 2) for c in (32, 64, 32, 16)])
    torch.testing.assert_close(found.class_BAC.sigmoid(), torch.full_like(found.class_BAC, PRIOR))
