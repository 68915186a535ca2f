"""What holds for refined boxes, whatever the predictor says."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibox_training.iou_net.refinement import Refined, refine
from calibox_training.iou_net.spec import RefinementSpec
from tests.support.refinement import SIZE, bumpy_score

HEIGHT, WIDTH = SIZE
across, down = st.floats(0, WIDTH, width=32), st.floats(0, HEIGHT, width=32)
# Boxes with area, without, and on the border.
box = st.tuples(
    st.one_of(across, st.sampled_from((0.0, WIDTH))),
    st.one_of(down, st.sampled_from((0.0, HEIGHT))),
    st.one_of(across, st.sampled_from((0.0, WIDTH))),
    st.one_of(down, st.sampled_from((0.0, HEIGHT))),
).map(lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])])


@given(
    boxes=st.lists(box, max_size=6),
    seed=st.integers(0, 2**31 - 1),
    gain=st.sampled_from((1.0, 200.0, 1e5)),
    step_size=st.sampled_from((0.1, 0.5, 50.0)),
    keep_worse=st.booleans(),
)
@settings(max_examples=80)
def test_boxes_stay_inside_whole_and_finite(
    boxes: list[list[float]], seed: int, gain: float, step_size: float, keep_worse: bool
) -> None:
    before = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    found = run(before, seed, gain, RefinementSpec(step_size=step_size, keep_worse=keep_worse))
    after = found.boxes_R4
    assert torch.isfinite(after).all()
    assert torch.isfinite(found.output_R).all()
    assert (after >= 0).all()
    assert (after <= torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).all()
    had_side = before[:, 2:] > before[:, :2]
    assert ((after[:, 2:] > after[:, :2]) == had_side).all()
    without_area = ~had_side.all(dim=1)
    torch.testing.assert_close(after[without_area], before[without_area], rtol=0, atol=0)


@given(boxes=st.lists(box, max_size=6), seed=st.integers(0, 2**31 - 1), steps=st.integers(0, 6))
@settings(max_examples=60)
def test_the_predicted_iou_never_falls(boxes: list[list[float]], seed: int, steps: int) -> None:
    before = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    start = run(before, seed, 200.0, RefinementSpec(steps=0))
    found = run(before, seed, 200.0, RefinementSpec(steps=steps))
    assert (found.output_R >= start.output_R).all()
    assert (found.steps_R <= steps).all()
    # More steps never end lower.
    further = run(before, seed, 200.0, RefinementSpec(steps=steps + 1))
    assert (further.output_R >= found.output_R - 1e-5).all()


@given(boxes=st.lists(box, min_size=2, max_size=6), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=30)
def test_boxes_do_not_influence_one_another(boxes: list[list[float]], seed: int) -> None:
    before = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    together = run(before, seed, 200.0, RefinementSpec(steps=2))
    first = run(before[:1], seed, 200.0, RefinementSpec(steps=2))
    torch.testing.assert_close(together.boxes_R4[:1], first.boxes_R4, rtol=1e-4, atol=1e-3)


def run(boxes: Tensor, seed: int, gain: float, spec: RefinementSpec) -> Refined:
    score = bumpy_score(len(boxes), seed=seed, gain=gain)
    return refine(score, boxes, torch.tensor([SIZE]).expand(len(boxes), 2), spec)
