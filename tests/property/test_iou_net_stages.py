"""What holds for boxes that a graph refined, whatever they were."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibox_training.iou_net.spec import RefinementSpec
from tests.support.iou_net_stages import CLASSES, SIZE, random_maps, refined_by_runtime, refined_by_torch

HEIGHT, WIDTH = SIZE
ROWS = 4
SPEC = RefinementSpec(step_size=3.0)
across = st.one_of(st.floats(0, WIDTH, width=32), st.sampled_from((0.0, float(WIDTH))))
down = st.one_of(st.floats(0, HEIGHT, width=32), st.sampled_from((0.0, float(HEIGHT))))
# With area, without, inverted, and on the border.
box = st.tuples(across, down, across, down)


@given(
    boxes=st.lists(box, min_size=ROWS, max_size=ROWS),
    steps=st.lists(st.integers(-1, 7), min_size=1, max_size=3),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_refined_boxes_stay_inside_whole_and_finite(
    boxes: list[tuple[float, ...]], steps: list[int], seed: int
) -> None:
    images = len(steps)
    before = torch.tensor(boxes, dtype=torch.float32).expand(images, ROWS, 4).contiguous()
    labels = torch.arange(ROWS).expand(images, ROWS) % CLASSES
    maps = [level[:1].expand(images, -1, -1, -1).contiguous() for level in random_maps(1, seed=seed)]
    after, iou = refined_by_runtime(maps, before, labels, steps, SPEC)
    assert torch.isfinite(after).all()
    assert ((iou >= 0) & (iou <= 1)).all()
    assert ((after >= 0) & (after <= torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))).all()
    whole = before[..., 2:] > before[..., :2]
    assert ((after[..., 2:] > after[..., :2]) == whole).all()
    flat = ~whole.all(dim=2)
    assert torch.equal(after[flat], before[flat])
    for image, asked in enumerate(steps):
        if asked <= 0:
            assert torch.equal(after[image], before[image])
        else:
            start = refined_by_torch(maps, before, labels, RefinementSpec(steps=0)).output_R.reshape(images, ROWS)
            assert (iou[image] >= ((start[image] + 1) / 2).clamp(0, 1) - 1e-4).all()
