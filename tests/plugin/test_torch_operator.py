"""The PyTorch operator: on CPU tensors the reference; its handing over of tensors to the kernels, by the host build."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from calibox_core.nms import NmsAttributes
from calibox_export.kernels.library import FOLDER_VARIABLE, INPUT_NAMES, OUTPUT_NAMES, KernelError, KernelLibrary
from calibox_export.kernels.torch_operator import calibrated_nms, cuda_library, run_on_tensors
from tests.support.nms_answers import assert_reference_answers
from tests.support.nms_cases import nms_cases
from tests.support.nms_images import NmsCase, stacked


def tensors(case: NmsCase) -> tuple[Tensor, ...]:
    inputs = stacked(case)
    return tuple(torch.from_numpy(inputs[name]) for name in INPUT_NAMES)


def compare(outputs: list[Tensor], case: NmsCase) -> None:
    named = dict(zip(OUTPUT_NAMES, outputs, strict=True))
    assert_reference_answers({name: tensor.numpy() for name, tensor in named.items()}, case)


@given(case=nms_cases())
@settings(max_examples=20)
def test_on_the_cpu_it_answers_as_the_reference(case: NmsCase) -> None:
    compare(calibrated_nms(*tensors(case), **case.attributes.model_dump(mode="json")), case)


def test_tensors_reach_the_kernels_as_they_are(host: KernelLibrary) -> None:
    @given(case=nms_cases())
    @settings(max_examples=20)
    def holds(case: NmsCase) -> None:
        compare(run_on_tensors(host, tensors(case), case.attributes), case)

    holds()


def test_views_are_made_dense(host: KernelLibrary) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]).t().contiguous().t()[None]
    p, q = torch.tensor([[[0.5], [0.25]]]), torch.ones(1, 2, 4)[:, :, ::4]
    rest = (torch.tensor([[1.0, 0, 0]]), torch.zeros(1), torch.full((1,), 0.5))
    outputs = run_on_tensors(host, (boxes, p, q, *rest), NmsAttributes(pre_nms_top_k=2, max_detections=2))
    assert outputs[1].tolist() == boxes.tolist()


def test_the_compiler_knows_its_shapes() -> None:
    inputs = (
        torch.rand(2, 5, 4),
        torch.rand(2, 5, 3),
        torch.rand(2, 5, 1),
        torch.ones(2, 3),
        torch.zeros(2),
        torch.ones(2),
    )
    attributes = NmsAttributes(pre_nms_top_k=7, max_detections=4).model_dump(mode="json")
    torch.library.opcheck(calibrated_nms, inputs, attributes, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("place", "tensor", "words"),
    [
        (0, torch.rand(2, 5, 3), r"boxes must have the shape \[2, 5, 4\], got \[2, 5, 3\]"),
        (2, torch.rand(2, 4, 1), r"q must have the shape \[2, 5, 1\], got \[2, 4, 1\]"),
        (2, torch.rand(2, 5, 1).half(), "p and q alike"),
        (4, torch.zeros(2).double(), "must be float32"),
    ],
)
def test_other_shapes_and_types_are_refused(place: int, tensor: Tensor, words: str) -> None:
    inputs = [
        torch.rand(2, 5, 4),
        torch.rand(2, 5, 3),
        torch.rand(2, 5, 1),
        torch.ones(2, 3),
        torch.zeros(2),
        torch.ones(2),
    ]
    inputs[place] = tensor
    with pytest.raises(ValueError, match=words):
        calibrated_nms(*inputs, **NmsAttributes().model_dump(mode="json"))


def test_a_missing_cuda_build_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, "/nowhere")
    cuda_library.cache_clear()
    with pytest.raises(KernelError, match=r"build it as docs/plugin\.md says"):
        cuda_library()
