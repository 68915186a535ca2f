import pytest
import torch
from torchvision.ops import deform_conv2d

from calibox_training.box_coder import BoxCoder
from calibox_training.model_spec import BoxSpec
from calibox_training.models.alignment import FeatureAlignment, deform_conv3x3


@pytest.mark.parametrize(("height", "width"), [(7, 9), (1, 5), (4, 1), (1, 1)])
@pytest.mark.parametrize("groups", [1, 4])
def test_it_is_torchvisions_deformable_convolution(height: int, width: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(height * 10 + groups)
    maps = torch.randn(3, 8, height, width, generator=generator, requires_grad=True)
    offset = (torch.randn(3, groups * 18, height, width, generator=generator) * 2).requires_grad_()
    weight = torch.randn(6, 8, 3, 3, generator=generator, requires_grad=True)
    found = deform_conv3x3(maps, offset, weight)
    expected = deform_conv2d(maps, offset, weight, padding=1)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    pull = torch.randn(found.shape, generator=generator)
    gradients = torch.autograd.grad(found, (maps, offset, weight), pull)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, (maps, offset, weight), pull), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("coding", ["delta", "ltrb", "dfl"])
def test_offsets_follow_the_regressed_distances(coding: str) -> None:
    """A box coded by hand reaches the offset layer as its distances in strides."""
    coder = BoxCoder(BoxSpec.model_validate({"coding": coding, "reg_max": 4}))
    align = FeatureAlignment(8, coder, torch.tensor([-4.0, -4.0, 4.0, 4.0]))
    wanted = torch.tensor([1.0, 2.0, 3.0, 4.0])  # left, top, right, bottom
    box = torch.tensor([-1.0, -2.0, 3.0, 4.0])
    one = torch.ones(())
    if coding == "dfl":
        code = torch.full((4, 5), -1e4)
        code[torch.arange(4), wanted.long()] = 0.0
        code = code.flatten()
    else:
        code = coder.encode(box, align.anchor_4, one)
    seen = []
    align.offset.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    align(torch.zeros(2, 8, 3, 5), code.view(1, -1, 1, 1).expand(2, -1, 3, 5))
    torch.testing.assert_close(seen[0], wanted.view(1, 4, 1, 1).expand(2, 4, 3, 5))


def test_without_offsets_it_is_a_convolution() -> None:
    align = FeatureAlignment(8, BoxCoder(BoxSpec()), torch.tensor([-4.0, -4.0, 4.0, 4.0]))
    torch.nn.init.zeros_(align.offset.weight)
    level = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(align(level, torch.randn(2, 4, 5, 6)), align.conv(level).relu(), atol=1e-5, rtol=1e-4)


def test_under_autocast_it_stays_near_its_float32_result() -> None:
    torch.manual_seed(0)
    align = FeatureAlignment(8, BoxCoder(BoxSpec(coding="ltrb")), torch.tensor([-4.0, -4.0, 4.0, 4.0]))
    level, code = torch.randn(2, 8, 6, 7), torch.randn(2, 4, 6, 7)
    expected = align(level, code)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = align(level.bfloat16(), code.bfloat16())
    assert found.dtype == torch.bfloat16
    # Offsets of a few pixels in bfloat16 are good to about 1/64 of a pixel.
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.1)
