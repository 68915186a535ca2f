"""LED as a whole: its three steps, what each teaches, and what the branch learns."""

import pytest
import torch

from calibox_training.anchor_spec import SsdAnchorSpec
from calibox_training.anchors import default_boxes
from calibox_training.criterion import Criterion
from calibox_training.led.samples import object_overlaps
from calibox_training.models.detector import Detector
from calibox_training.pyramid import map_shapes
from calibox_training.quality import quality_scores
from calibox_training.recipe import Recipe, RecipeError, load_recipe, recipe_of_stage
from calibox_training.run_module import freeze
from tests.support.systems import SIZE, batch, run, system

SHIPPED = ("led_ssd300_voc", "led_ssd_kitti")
STAGE_2 = ("backbone", "ssd", "head.class_convs", "head.box_convs")


def _steps(name: str) -> list[Recipe]:
    recipe = load_recipe(name)
    return [recipe_of_stage(recipe, stage) for stage in recipe.stages]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_three_steps_are_those_of_the_paper(name: str) -> None:
    detector, estimation, joint = _steps(name)
    assert (detector.model.quality.method, detector.quality.target) == ("none", "none")
    assert {estimation.quality.method, joint.quality.method} == {"led"}
    assert estimation.model.quality.model_dump()["weight"] == 1.0
    assert joint.model.quality.model_dump()["weight"] == pytest.approx(1 / 3, abs=1e-6)
    assert (detector.schedule.freeze, estimation.schedule.freeze, joint.schedule.freeze) == ((), STAGE_2, ())
    # The detector itself is the same in all three.
    assert len({step.model.model_copy(update={"quality": joint.model.quality}) for step in (detector, joint)}) == 1
    assert estimation.model.model_copy(update={"quality": joint.model.quality}) == joint.model


@pytest.mark.parametrize(
    ("name", "images", "iterations"),
    [
        # PASCAL VOC 07+12 trainval: 5,011 + 11,540 images; LED, section 3.1
        ("led_ssd300_voc", 16_551, [(80_000, 100_000, 120_000), (20_000, 40_000), (40_000, 80_000)]),
        # the training half of KITTI; LED, section 3.2
        ("led_ssd_kitti", 3_682, [(30_000, 60_000)] * 3),
    ],
)
def test_schedules_are_the_published_iterations_in_epochs(
    name: str, images: int, iterations: list[tuple[int, ...]]
) -> None:
    for step, wanted in zip(_steps(name), iterations, strict=True):
        schedule = step.schedule
        batches = images // schedule.batch_size
        ends = [epoch * batches for epoch in (*schedule.milestones, schedule.epochs)]
        assert ends == pytest.approx(wanted, abs=batches / 2)
        assert (schedule.optimizer, schedule.momentum, schedule.weight_decay) == ("sgd", 0.9, 0.0005)


@pytest.mark.parametrize("name", ["led", "led_direct"])
def test_the_second_step_reaches_the_estimation_only(name: str) -> None:
    recipe, (images, objects) = system(name), batch()
    torch.manual_seed(0)
    detector = Detector(recipe.model, classes=2)
    freeze(detector, STAGE_2)
    trained = {n for n, p in detector.named_parameters() if p.requires_grad}
    assert {n.split(".")[1] for n in trained} == {"quality_convs"}
    assert {n.split(".")[2] for n in trained} == {"0", "1", "2", "3"}
    found = detector(detector.normalise(images))
    losses = Criterion(recipe.model, recipe.loss)(found, detector.anchors(*SIZE), objects)
    assert not losses.classification.requires_grad
    assert not losses.box.requires_grad
    losses.total.backward()
    reached = {n for n, p in detector.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert reached <= trained
    assert {n.split(".")[2] for n in reached} >= {"0", "1"}


@pytest.mark.parametrize(
    ("name", "least"),
    [("led", 0.6), ("led_direct", 0.4)],  # one convolution on features that nobody trained learns less
)
def test_the_estimation_learns_how_well_boxes_lie(name: str, least: float) -> None:
    """The second step on two images: the score comes to follow the true IoU of the decoded boxes."""
    recipe, (images, objects) = system(name), batch()
    torch.manual_seed(0)
    detector = Detector(recipe.model, classes=2)
    freeze(detector, STAGE_2)
    criterion, anchors = Criterion(recipe.model, recipe.loss), detector.anchors(*SIZE)
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(80):
        found = detector(detector.normalise(images))
        loss = criterion(found, anchors, objects).quality
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found.quality_BAQ is not None
    boxes = detector.coder.decode(found.box_BAV, anchors.boxes_A4, anchors.stride_A).detach()
    iou_BA = object_overlaps(boxes, objects.boxes_BG4, objects.labels_BG >= 0)[..., 2]
    score_BA = quality_scores(recipe.model.quality, found.quality_BAQ.detach())[..., 0]
    correlation = torch.corrcoef(torch.stack([iou_BA.flatten(), score_BA.flatten()]))[0, 1]
    assert correlation > least


def test_led_reads_maps_that_towers_do_not_have() -> None:
    with pytest.raises(RecipeError, match="write head: single"):
        system("led", model__head="towers")


def test_led_on_a_feature_pyramid_with_single_convolutions() -> None:
    """Nothing in it needs SSD's maps."""
    recipe = system("iou_aware", model__head="single", model__quality={"method": "led", "channels": 4})
    detector, (images, objects) = Detector(recipe.model, classes=2), batch()
    found = detector(detector.normalise(images))
    assert found.quality_BAQ is not None
    assert found.quality_BAQ.shape[2] == 24
    losses = Criterion(recipe.model, recipe.loss)(found, detector.anchors(*SIZE), objects)
    losses.total.backward()
    assert losses.total.isfinite()


def test_kittis_anchors_lie_and_have_no_standing_twins() -> None:
    recipe = load_recipe("led_ssd_kitti")
    spec = recipe.model.anchors
    assert spec.per_level == (6, 6, 6, 6, 6, 6)
    assert isinstance(spec, SsdAnchorSpec)
    shapes = map_shapes(recipe.model, recipe.input.height, recipe.input.width)
    assert shapes == ((72, 240), (36, 120), (18, 60), (9, 30), (5, 15), (3, 8))
    found = default_boxes(spec, shapes, size=(576, 1920))
    first = found.boxes_A4[:6]
    sides = (first[:, 2:] - first[:, :2]).tolist()
    # 24 and the geometric mean of 24 and 48; then 24 * sqrt(r) x 24 / sqrt(r)
    wanted = [[24, 24], [33.941, 33.941], [29.394, 19.596], [32.199, 17.889], [35.598, 16.181], [39.436, 14.606]]
    assert [value for row in sides for value in row] == pytest.approx([v for row in wanted for v in row], abs=1e-3)


def test_the_loss_weighs_what_the_recipe_says() -> None:
    whole, third = (run(system("led", model__quality__weight=weight))[2] for weight in (1.0, 1 / 3))
    assert third.quality.item() == pytest.approx(whole.quality.item() / 3)
    assert third.total.item() == pytest.approx((third.classification + third.box + third.quality).item())
