"""The kernels on a CUDA device, by the same checks as benchmarks/gpu/run.sh: answers, CUDA graphs, sanitizers."""

import pytest

from benchmarks.gpu.cases import HALF, case_of, one_quality_per_anchor
from benchmarks.gpu.correctness import (
    BATCHES,
    CLASSES,
    NOTHING,
    TOP_K,
    check,
    check_nothing,
    check_operator,
    check_pool,
)
from benchmarks.gpu.graphs import SIZES, check_pool_replays, check_replays
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.steps import run
from calibox_export.kernels.library import Device
from tests.support.pool_cases import generated_pool

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("top_k", TOP_K)
def test_kernels_equal_the_reference(setup: Setup, top_k: int, classes: int, batch: int) -> None:
    library = setup.kernels()
    assert library.device == Device.CUDA
    for seed in range(3):
        check(setup, library, case_of(seed, top_k=top_k, classes=classes, batch=batch))


@pytest.mark.parametrize("half", [("boxes",), ("p", "q"), HALF])
def test_half_precision_inputs_give_the_answer_of_their_values(setup: Setup, half: tuple[str, ...]) -> None:
    for seed in range(12):
        check(setup, setup.kernels(), one_quality_per_anchor(case_of(seed, top_k=33, classes=3, batch=2)), half=half)


@pytest.mark.parametrize("sizes", NOTHING)
def test_nothing_gives_padding(setup: Setup, sizes: tuple[int, int, int]) -> None:
    check_nothing(setup, setup.kernels(), sizes)


def test_the_torch_operator_launches_the_kernels(setup: Setup) -> None:
    check_operator(setup, case_of(0, top_k=33, classes=3, batch=2))


@pytest.mark.parametrize(("top_k", "classes", "batch"), SIZES)
def test_a_captured_graph_answers_new_inputs_and_allocates_nothing(
    setup: Setup, top_k: int, classes: int, batch: int
) -> None:
    assert check_replays(setup, setup.kernels(), top_k=top_k, classes=classes, batch=batch) == 6


def test_precise_roi_pooling_equals_torch(setup: Setup) -> None:
    for seed in range(100):
        check_pool(setup, generated_pool(seed))


def test_captured_pooling_answers_new_inputs_and_allocates_nothing(setup: Setup) -> None:
    assert check_pool_replays(setup) > 0


@pytest.mark.timeout(600)
def test_compute_sanitizer_finds_nothing(setup: Setup) -> None:
    outcome = run("sanitizers", setup)
    if outcome.status == "skipped":
        pytest.skip(outcome.why)
    assert outcome.status == "passed", outcome.why
