"""The kernels that ship, on the CPU: cases worked out by hand, corners, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calibox_core.fusion import Exponents
from calibox_core.nms import NmsAttributes, OutScore
from calibox_export import calibrated_nms as node
from calibox_export.graph import contract_outputs
from calibox_export.kernels import library as interface
from calibox_export.kernels.arrays import run_on_arrays
from calibox_export.kernels.library import KernelError, KernelLibrary, Sizes
from tests.support.nms_answers import assert_reference_answers
from tests.support.nms_images import NmsCase, NmsImage, random_boxes, stacked

PRODUCT = Exponents(1, 1, 0)


def image(
    boxes: NDArray[np.float32],
    p: NDArray[np.float32],
    q: NDArray[np.float32] | None = None,
    *,
    exponents: Exponents = PRODUCT,
    score_threshold: float = 0.0,
    iou_threshold: float = 0.5,
) -> NmsImage:
    q = np.ones((len(boxes), 1), np.float32) if q is None else q
    return NmsImage(boxes, p, q, exponents, score_threshold, iou_threshold)


def answer(library: KernelLibrary, attributes: NmsAttributes, *images: NmsImage) -> dict[str, list[object]]:
    """Outputs of the batch, which are also compared with the reference."""
    case = NmsCase(images, attributes)
    found = run_on_arrays(library, stacked(case), attributes)
    assert_reference_answers(found, case)
    return {name: values.tolist() for name, values in found.items()}


def test_a_hand_worked_cluster(host: KernelLibrary) -> None:
    """Ranked by q: 0, 1, 2, 3. Box 1 shares 80 of 120 with box 0 and goes; box 2 of class 1 and box 3 apart stay."""
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    p = np.array([[0.25, 0], [0.75, 0], [0, 0.5], [0.125, 0]], np.float32)
    q = np.array([[0.9], [0.8], [0.7], [0.6]], np.float32)
    attributes = NmsAttributes(out_score=OutScore.CLASSIFICATION_CLUSTERED, pre_nms_top_k=6, max_detections=4)
    found = answer(host, attributes, image(boxes, p, q, exponents=Exponents(0, 1, 0)))
    assert found["num_detections"] == [3]
    assert found["labels"] == [[0, 1, 0, -1]]
    assert found["scores"] == [[0.75, 0.5, 0.125, 0]]
    assert found["classification_scores"] == [[0.25, 0.5, 0.125, 0]]
    assert found["boxes"] == [[[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 0, 0]]]
    assert found["candidate_labels"] == [[0, 0, 1, 0, -1, -1]]


def test_ties_without_end_go_to_the_lower_index(host: KernelLibrary) -> None:
    """All 32,000 pairs have one key: the first 300 by index are the candidates."""
    boxes = random_boxes(np.random.default_rng(0), 400, field=400)
    attributes = NmsAttributes(pre_nms_top_k=300, max_detections=300)
    found = answer(host, attributes, image(boxes, np.full((400, 80), 0.5, np.float32), iou_threshold=1.0))
    assert found["candidate_labels"] == [[*range(80)] * 3 + [*range(60)]]


def test_keys_of_plus_and_minus_zero_are_one_key(host: KernelLibrary) -> None:
    """With exponents of 0 a key is 0 * log p, -0 for p below 1 and +0 for p = 1."""
    boxes = np.array([[0, 0, 1, 1], [2, 0, 3, 1], [4, 0, 5, 1]], np.float32)
    p = np.array([[0.5], [1], [0.25]], np.float32)
    found = answer(host, NmsAttributes(pre_nms_top_k=3), image(boxes, p, exponents=Exponents(0, 0, 0)))
    assert found["candidate_classification_scores"] == [[0.5, 1, 0.25]]


@pytest.mark.parametrize("top_k", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("out_score", OutScore)
def test_boxes_that_all_overlap_leave_the_first(host: KernelLibrary, top_k: int, out_score: OutScore) -> None:
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (1000, 1))
    p = np.linspace(0.1, 1, 1000, dtype=np.float32)[:, None]
    attributes = NmsAttributes(out_score=out_score, pre_nms_top_k=top_k)
    found = answer(host, attributes, image(boxes, p, exponents=Exponents(1, 0, 0)))
    assert found["num_detections"] == [1]


def test_a_chain_in_which_each_box_removes_the_next(host: KernelLibrary) -> None:
    """Every second of 100 boxes stays: the longest chain that a tile can hold."""
    shifts = np.arange(100, dtype=np.float32)[:, None] * 4
    boxes = np.array([[0, 0, 10, 10]], np.float32) + shifts * np.array([[1, 0, 1, 0]], np.float32)
    p = np.linspace(1, 0.5, 100, dtype=np.float32)[:, None]
    found = answer(host, NmsAttributes(pre_nms_top_k=100), image(boxes, p, iou_threshold=0.4))
    assert found["num_detections"] == [50]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["boxes", "p", "q"])
def test_what_is_not_finite_anywhere_gives_padding_only(host: KernelLibrary, where: str, value: float) -> None:
    rng = np.random.default_rng(1)
    parts = {"boxes": random_boxes(rng, 33, field=40), "p": rng.random((33, 3), np.float32)}
    parts["q"] = rng.random((33, 1), np.float32)
    parts[where] = np.full_like(parts[where], value)
    found = answer(host, NmsAttributes(pre_nms_top_k=40, max_detections=5), image(**parts))
    assert found["num_detections"] == [0]
    assert found["labels"] == [[-1] * 5]


def test_inverted_and_empty_boxes_overlap_nothing(host: KernelLibrary) -> None:
    boxes = np.array([[10, 10, 0, 0], [0, 0, 10, 10], [5, 5, 5, 9], [9, 0, 1, 10], [0, 0, 10, 10]], np.float32)
    p = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]], np.float32)
    found = answer(host, NmsAttributes(pre_nms_top_k=5), image(boxes, p, iou_threshold=0.0))
    assert found["num_detections"] == [4]


def test_every_image_has_its_own_parameters(host: KernelLibrary) -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [40, 0, 50, 10]], np.float32)  # IoU of the first two: 1/3
    p = np.array([[1], [0.5], [0.25]], np.float32)
    q = np.array([[0.25], [1], [1]], np.float32)
    settings = {"boxes": boxes, "p": p, "q": q}
    found = answer(
        host,
        NmsAttributes(pre_nms_top_k=3, max_detections=3),
        image(**settings, exponents=Exponents(1, 0, 0), iou_threshold=0.25),
        image(**settings, exponents=Exponents(0, 1, 0), iou_threshold=0.25),
        image(**settings, exponents=Exponents(1, 1, 0), iou_threshold=0.5, score_threshold=0.3),
    )
    assert found["num_detections"] == [2, 2, 1]
    assert found["classification_scores"] == [[1, 0.25, 0], [0.5, 0.25, 0], [0.5, 0, 0]]


@pytest.mark.parametrize(("batch", "anchors", "classes"), [(0, 0, 3), (0, 12, 3), (2, 0, 3), (2, 5, 0), (1, 0, 0)])
def test_nothing_gives_padding(host: KernelLibrary, batch: int, anchors: int, classes: int) -> None:
    shapes = {"boxes": (batch, anchors, 4), "p": (batch, anchors, classes), "q": (batch, anchors, 1)}
    inputs = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    inputs |= {name: np.ones((batch, 3) if name == "fusion" else batch, np.float32) for name in node.INPUTS[3:]}
    found = run_on_arrays(host, inputs, NmsAttributes(pre_nms_top_k=5, max_detections=4))
    assert found["num_detections"].tolist() == [0] * batch
    assert found["labels"].tolist() == [[-1] * 4] * batch
    assert found["candidate_boxes"].tolist() == [[[0] * 4] * 5] * batch


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (Sizes(-1, 1, 1, 1), "Sizes"),
        (Sizes(65_536, 1, 1, 1), "Sizes"),
        (Sizes(1, 100_000, 80_000, 1), "Sizes"),
        (Sizes(1, 4, 4, 3), "Sizes"),
        (Sizes(1, 4, 4, 1, score_type=2), "Sizes"),
    ],
)
def test_sizes_outside_their_ranges_are_refused(host: KernelLibrary, sizes: Sizes, words: str) -> None:
    assert host.workspace_bytes(sizes, NmsAttributes()) == 0
    with pytest.raises(KernelError, match=words):
        launch(host, sizes, NmsAttributes(), workspace=(1 << 20, 1 << 40))


@pytest.mark.parametrize("change", [{"pre_nms_top_k": 3841}, {"max_detections": 0}, {"candidate_floor": -1.0}])
def test_attributes_outside_their_ranges_are_refused(host: KernelLibrary, change: dict[str, float]) -> None:
    with pytest.raises(KernelError, match="Attributes"):
        launch(host, Sizes(1, 1, 1, 1), NmsAttributes().model_copy(update=change), workspace=(1 << 20, 1 << 40))


def test_a_small_workspace_or_a_null_pointer_is_refused(host: KernelLibrary) -> None:
    sizes, attributes = Sizes(1, 10, 2, 1), NmsAttributes()
    needed = host.workspace_bytes(sizes, attributes)
    with pytest.raises(KernelError, match="workspace is smaller"):
        launch(host, sizes, attributes, workspace=(1 << 20, needed - 1))
    with pytest.raises(KernelError, match="pointer is null"):
        launch(host, sizes, attributes, workspace=(1 << 20, needed))


def launch(library: KernelLibrary, sizes: Sizes, attributes: NmsAttributes, *, workspace: tuple[int, int]) -> None:
    """With null pointers, which is noticed last."""
    library.launch(
        sizes,
        attributes,
        inputs=dict.fromkeys(interface.INPUT_NAMES, 0),
        outputs=dict.fromkeys(interface.OUTPUT_NAMES, 0),
        workspace=workspace,
    )


def test_the_workspace_never_shrinks_when_a_size_grows(host: KernelLibrary) -> None:
    small, attributes = Sizes(2, 100, 3, 1), NmsAttributes(pre_nms_top_k=64)
    least = host.workspace_bytes(small, attributes)
    for change in ({"batch": 3}, {"anchors": 101}, {"classes": 4}):
        assert host.workspace_bytes(small._replace(**change), attributes) >= least


def test_names_and_shapes_are_the_operators() -> None:
    attributes = NmsAttributes(pre_nms_top_k=7, max_detections=5)
    assert interface.INPUT_NAMES == node.INPUTS
    assert interface.OUTPUT_NAMES == node.OUTPUTS
    shapes = interface.output_shapes(3, attributes)
    for output in contract_outputs(attributes):
        dims = output.type.tensor_type.shape.dim
        assert shapes[output.name] == (3, *(dim.dim_value for dim in dims[1:]))
        assert (output.type.tensor_type.elem_type == 6) == (output.name in interface.INTEGER_OUTPUTS)  # 6: int32


def test_a_library_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"cannot be loaded .* build it as docs/plugin.md says"):
        KernelLibrary(tmp_path / "nothing.so")
