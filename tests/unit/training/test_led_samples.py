"""Which detections LED learns from, against the rules written out in plain Python; and its loss on them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibox_core.boxes import intersection_area, pairwise_iou
from calibox_training.led.coding import loss_elements, value_range
from calibox_training.led.loss import led_loss
from calibox_training.led.samples import FEWEST, mined_samples, object_overlaps
from calibox_training.objects import Objects
from calibox_training.quality_spec import LedQuality

SPEC = LedQuality()


def _boxes(generator: torch.Generator, *shape: int) -> Tensor:
    corner = torch.rand(*shape, 2, generator=generator) * 60
    return torch.cat([corner, corner + 5 + torch.rand(*shape, 2, generator=generator) * 40], dim=-1)


def _scene(seed: int = 0, *, images: int = 3, objects: int = 4, anchors: int = 300) -> tuple[Tensor, Objects]:
    """Boxes and objects of which the last of the first image is padding and the last of the second is a crowd."""
    generator = torch.Generator().manual_seed(seed)
    boxes, found = _boxes(generator, images, anchors), _boxes(generator, images, objects)
    labels, crowd = torch.zeros(images, objects, dtype=torch.int64), torch.zeros(images, objects, dtype=torch.bool)
    found[0, -1], labels[0, -1] = 0, -1
    crowd[1, -1], labels[1, -1] = True, -1
    return boxes, Objects(found, labels, crowd)


def test_overlaps_are_those_with_the_object_of_the_largest_iou() -> None:
    boxes, objects = _scene()
    found = object_overlaps(boxes, objects.boxes_BG4, objects.labels_BG >= 0)
    for image in range(len(boxes)):
        real = [g for g in range(4) if objects.labels_BG[image, g] >= 0]
        others = objects.boxes_BG4[image].numpy()
        iou = pairwise_iou(boxes[image].numpy(), others)
        common = intersection_area(boxes[image].numpy(), others)
        for a, (x1, y1, x2, y2) in enumerate(boxes[image].tolist()):
            g = max(real, key=lambda g, a=a: iou[a, g])
            width, height = others[g][2:] - others[g][:2]
            wanted = [common[a, g] / ((x2 - x1) * (y2 - y1)), common[a, g] / (width * height), iou[a, g]]
            assert found[image, a].tolist() == pytest.approx(wanted, abs=1e-5)


def test_overlaps_by_hand() -> None:
    # The box 10..30 x 10..20 and the object 20..40 x 10..30 have 10 x 10 in common: 100/200, 100/400, 100/500.
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 20.0], [50.0, 50.0, 60.0, 60.0]]])
    objects = torch.tensor([[[20.0, 10.0, 40.0, 30.0], [10.0, 10.0, 30.0, 20.0]]])
    found = object_overlaps(boxes, objects, torch.tensor([[True, False]]))
    assert found[0].tolist() == [pytest.approx([0.5, 0.25, 0.2]), [0.0, 0.0, 0.0]]


def test_images_without_objects_have_no_overlaps() -> None:
    found = object_overlaps(_scene()[0], torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.bool))
    assert found.shape == (3, 300, 3)
    assert (found == 0).all()


def _mine_in_a_loop(losses: list[float], ranges: list[int], known: list[bool]) -> list[bool]:
    """One image, one overlap."""
    members = [[a for a in range(len(losses)) if known[a] and ranges[a] == k] for k in range(4)]
    sizes = [len(m) for m in members[1:] if m]
    share = max(16, min(sizes)) if sizes else 16
    kept = set()
    for k, count in enumerate((3 * share, share, share, share)):
        hardest = sorted(members[k], key=lambda a: (-losses[a], a))
        kept.update(hardest[:count])
    return [a in kept for a in range(len(losses))]


@given(
    seed=st.integers(0, 10_000),
    weights=st.tuples(*[st.sampled_from([0.0, 0.02, 0.1, 1.0])] * 3),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_mining_is_the_rule_written_out(seed: int, weights: tuple[float, ...], unknown: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 200, 3)
    # Few distinct losses: ties are common.
    losses = torch.randint(0, 40, shape, generator=generator).float() / 8
    chosen = torch.multinomial(torch.tensor([1.0, *weights]), 1200, replacement=True, generator=generator)
    ranges = chosen.reshape(shape)
    known = torch.rand(shape[:2], generator=generator) >= unknown
    found = mined_samples(losses, ranges, known)
    for image in range(2):
        for v in range(3):
            wanted = _mine_in_a_loop(losses[image, :, v].tolist(), ranges[image, :, v].tolist(), known[image].tolist())
            assert found[image, :, v].tolist() == wanted


def test_ranges_are_kept_at_about_three_to_one_to_one_to_one() -> None:
    sizes = (500, 40, 90, 25)
    ranges = torch.tensor([k for k, size in enumerate(sizes) for _ in range(size)])
    kept = mined_samples(torch.rand(1, 655, 1), ranges[None, :, None], torch.ones(1, 655, dtype=torch.bool))
    assert [int((kept[0, :, 0] & (ranges == k)).sum()) for k in range(4)] == [75, 25, 25, 25]


def test_a_rare_range_does_not_silence_the_others() -> None:
    sizes = (500, 40, 90, 1)
    ranges = torch.tensor([k for k, size in enumerate(sizes) for _ in range(size)])
    kept = mined_samples(torch.rand(1, 631, 1), ranges[None, :, None], torch.ones(1, 631, dtype=torch.bool))
    counts = [int((kept[0, :, 0] & (ranges == k)).sum()) for k in range(4)]
    assert counts == [3 * FEWEST, FEWEST, FEWEST, 1]


@pytest.mark.parametrize("spec", [SPEC, LedQuality(coarse_to_fine=False, sharp_l2=False)], ids=["led", "plain"])
def test_every_term_is_a_mean_over_its_own_samples(spec: LedQuality) -> None:
    boxes, objects = _scene()
    raw = torch.randn(3, 300, spec.values, generator=torch.Generator().manual_seed(1))
    known = torch.rand(3, 300, generator=torch.Generator().manual_seed(2)) < 0.8
    overlaps = object_overlaps(boxes, objects.boxes_BG4, objects.labels_BG >= 0)
    elements, ranges = loss_elements(spec, raw, overlaps), value_range(overlaps)
    wanted = 0.0
    for v in range(3):
        terms: list[tuple[float, float]] = []
        for image in range(3):
            coarse, fine = elements.coarse[image, :, v].tolist(), elements.fine[image, :, v].tolist()
            sums = (elements.coarse + elements.fine)[image, :, v].tolist()
            kept = _mine_in_a_loop(sums, ranges[image, :, v].tolist(), known[image].tolist())
            terms += [(c, f) for c, f, k in zip(coarse, fine, kept, strict=True) if k]
        wanted += sum(c for c, _ in terms) / len(terms) + sum(f for _, f in terms) / len(terms)
    assert led_loss(spec, raw, boxes, objects, known).item() == pytest.approx(wanted, rel=1e-5)


def test_no_gradient_reaches_the_boxes_and_none_the_estimates_that_were_not_mined() -> None:
    boxes, objects = _scene()
    raw = torch.randn(3, 300, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    known = torch.ones(3, 300, dtype=torch.bool)
    known[:, ::2] = False
    boxes.requires_grad_()
    led_loss(SPEC, raw, boxes, objects, known).backward()
    assert boxes.grad is None
    assert raw.grad is not None
    assert (raw.grad[:, ::2] == 0).all()
    assert (raw.grad[:, 1::2] != 0).any()


def test_a_batch_without_objects_or_known_anchors_is_a_finite_loss() -> None:
    boxes, objects = _scene()
    nothing = Objects(torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0, dtype=torch.bool))
    raw = torch.zeros(3, 300, 24, requires_grad=True)
    everything = torch.ones(3, 300, dtype=torch.bool)
    background = led_loss(SPEC, raw, boxes, nothing, everything)
    # Each overlap is 0: log 4 for the range, (0 - -1)^2 / 2 inside it.
    assert background.item() == pytest.approx(3 * (1.3862944 + 0.5), rel=1e-5)
    silent = led_loss(SPEC, raw, boxes, objects, torch.zeros(3, 300, dtype=torch.bool))
    silent.backward()
    assert silent.item() == 0.0
    assert raw.grad is not None
    assert (raw.grad == 0).all()
