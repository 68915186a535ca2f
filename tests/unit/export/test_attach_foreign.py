"""Foreign ONNX files: what is seen in them, what is found by trying, and the network that they become."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from calibox_core.dataset import CocoFolder
from calibox_export.attach.description import ForeignHints, read_hints
from calibox_export.attach.detector_graph import detector_graph
from calibox_export.attach.evidence import Settled, settle
from calibox_export.attach.foreign import open_foreign, open_session
from calibox_export.errors import ExportError
from calibox_training.data.coco import read_classes, read_pixels, read_records
from tests.support.coco import make_coco_folder
from tests.support.foreign import HEIGHT, WIDTH, ColourDetector, colours_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles", train=12, val=8)


def settled(folder: CocoFolder, model: onnx.ModelProto | Path, **hints: Any) -> Settled:
    document = folder.annotations("train")
    classes = read_classes(document)
    opened = open_foreign(model) if isinstance(model, Path) else model
    return settle(opened, ForeignHints(**hints), folder, read_records(document, classes), classes)


def pictures(folder: CocoFolder) -> NDArray[np.uint8]:
    """Eight, of the size of the input, empty ones among them."""
    rows = folder.annotations("val")["images"]
    return np.stack([read_pixels(folder, row["file_name"]) for row in rows])


def rows_of(boxes: NDArray[np.float32], p: NDArray[np.float32]) -> list[tuple[int, list[float], float]]:
    """Label, box and score of every row that has one."""
    return [
        (int(label), boxes[row].tolist(), float(p[row, label])) for row, label in zip(*np.nonzero(p > 0), strict=True)
    ]


def same_rows(found: list[tuple[int, list[float], float]], expected: list[tuple[int, list[float], float]]) -> bool:
    # A fraction of 128 or 96 pixels and back loses the last bits of float32.
    return len(found) == len(expected) and all(
        a[0] == b[0] and np.allclose(a[1], b[1], atol=1e-4) and abs(a[2] - b[2]) < 1e-6
        for a, b in zip(found, expected, strict=True)
    )


FORMS = [
    ColourDetector(),
    ColourDetector(form="xywh", layout="nchw"),
    ColourDetector(form="cxcywh", fraction=True, layout="nhwc", offset=0),
    ColourDetector(form="xyxy", fraction=True, layout="hwc", kind="uint8", offset=5),
    ColourDetector(form="xywh", fraction=True, kind="float16"),
    ColourDetector(dense=True, layout="nchw", batch="many", form="cxcywh", offset=0),
    ColourDetector(dense=True, layout="nhwc", batch="many", fraction=True, kind="uint8"),
    ColourDetector(dense=True, layout="chw", offset=0),
    ColourDetector(opset=13),
    ColourDetector(opset=17, dense=True, layout="nchw", batch="many"),
]


@pytest.mark.parametrize("file", FORMS, ids=str)
def test_every_form_is_read_without_a_description(file: ColourDetector, folder: CocoFolder, tmp_path: Path) -> None:
    found = settled(folder, file.save(tmp_path / "colours.onnx"))
    spec = found.detector.spec
    assert (spec.layout, spec.height, spec.width) == (file.layout, HEIGHT, WIDTH)
    assert (spec.box_form, spec.box_unit) == (file.form, "fraction" if file.fraction else "pixels")
    assert spec.label_offset == ("category_ids" if file.offset == 5 else file.offset)  # the ids are 5 and 6
    assert (spec.labels is None) == file.dense
    assert found.detector.batched == (file.batch == "many")
    assert found.hits > 2 * found.next_best
    numbers = [file.offset, file.offset + 1]
    session = open_session(detector_graph(found.detector, numbers, 4))
    images = pictures(folder)
    boxes, p = session.run(["boxes", "p"], {"images": images})
    assert (boxes.shape, p.shape) == ((8, 4, 4), (8, 4, 2))
    for n, image in enumerate(images):
        assert same_rows(rows_of(boxes[n], p[n]), colours_of(image))


@pytest.mark.parametrize("file", [ColourDetector(), ColourDetector(layout="nchw", form="xywh")], ids=str)
def test_a_detector_for_one_picture_answers_a_batch_as_it_answers_each(
    file: ColourDetector, folder: CocoFolder, tmp_path: Path
) -> None:
    found = settled(folder, file.save(tmp_path / "colours.onnx"))
    model = detector_graph(found.detector, [1, 2], 3)
    onnx.checker.check_model(model, full_check=True)
    session, images = open_session(model), pictures(folder)
    alone = [session.run(["boxes", "p"], {"images": image[None]}) for image in images]
    for batch in (1, 3, 8):
        boxes, p = session.run(["boxes", "p"], {"images": images[:batch]})
        for n in range(batch):
            np.testing.assert_array_equal(boxes[n], alone[n][0][0])
            np.testing.assert_array_equal(p[n], alone[n][1][0])


def test_the_best_rows_are_passed_on(folder: CocoFolder) -> None:
    found = settled(folder, ColourDetector().model())
    image = np.full((1, HEIGHT, WIDTH, 3), 128, np.uint8)
    image[0, 10:30, 20:60] = (40, 60, 200)
    image[0, 50:90, 70:120] = (200, 40, 40)
    for rows in (1, 2, 3):
        boxes, p = open_session(detector_graph(found.detector, [1, 2], rows)).run(["boxes", "p"], {"images": image})
        np.testing.assert_allclose(boxes[0, 0], [70, 50, 120, 90])
        np.testing.assert_allclose(p[0, 0], [0.9, 0])
        np.testing.assert_allclose(boxes[0, 1:2], np.array([[20, 10, 60, 30]])[: rows - 1])
        np.testing.assert_allclose(p[0, 2:], np.zeros((max(0, rows - 2), 2)))


def test_a_weight_that_a_branch_reads_is_found_there(folder: CocoFolder) -> None:
    """As in torchvision's exports, whose suppression is a branch; here the limit is such a weight."""
    model = ColourDetector().model()
    nodes = list(model.graph.node)
    position = next(n for n, node in enumerate(nodes) if list(node.output) == ["limit"])
    del model.graph.node[position]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.65, np.float32), "limit"))
    compare = next(node for node in model.graph.node if node.op_type == "Greater")
    branches = {}
    for name in ("then_branch", "else_branch"):
        answer = onnx.helper.make_tensor_value_info(f"{name}_there", onnx.TensorProto.BOOL, None)
        inner = onnx.helper.make_node("Greater", list(compare.input), [answer.name])
        branches[name] = onnx.helper.make_graph([inner], name, [], [answer])
    always = onnx.helper.make_node("Constant", [], ["always"], value=onnx.numpy_helper.from_array(np.array(True)))
    chosen = onnx.helper.make_node("If", ["always"], ["there"], **branches)
    nodes = [node for n, node in enumerate(nodes) if n != position]
    place = nodes.index(compare)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], always, chosen, *nodes[place + 1 :]])
    onnx.checker.check_model(model)
    found = settled(folder, model)
    network = onnx.compose.add_prefix(detector_graph(found.detector, [1, 2], 2), "again/", rename_inputs=False)
    image = np.full((1, HEIGHT, WIDTH, 3), 128, np.uint8)
    image[0, 10:30, 20:60] = (200, 40, 40)
    boxes, _ = open_session(network).run(["again/boxes", "again/p"], {"images": image})
    np.testing.assert_allclose(boxes[0], [[20, 10, 60, 30], [0, 0, 0, 0]])


def test_scores_that_are_no_probabilities_need_an_activation(folder: CocoFolder) -> None:
    file = ColourDetector(dense=True, offset=0, logits=True, layout="nchw", batch="many")
    with pytest.raises(ExportError, match=r"scores in how_sure reach from -4 to 3.2, not 0..1; write `activation"):
        settled(folder, file.model())
    found = settled(folder, file.model(), activation="sigmoid")
    assert found.detector.spec.activation == "sigmoid"


def test_a_file_that_leaves_its_size_open_asks_for_it(folder: CocoFolder) -> None:
    file = ColourDetector(height="rows")
    with pytest.raises(ExportError, match=r"leaves the height of picture open; write `height:`"):
        settled(folder, file.model())
    assert settled(folder, file.model(), height=HEIGHT).detector.spec.height == HEIGHT
    with pytest.raises(ExportError, match="`width` says 64, but the file fixes the width of picture to 128"):
        settled(folder, file.model(), height=HEIGHT, width=64)


def test_pixels_in_the_wrong_range_hit_nothing_and_say_so(folder: CocoFolder) -> None:
    with pytest.raises(ExportError, match=r"no reading .* on the objects of 8 training images"):
        settled(folder, ColourDetector().model(), scale=1e-4)


def test_a_detector_for_fewer_classes_is_refused(folder: CocoFolder) -> None:
    file = ColourDetector(dense=True, offset=0, layout="nchw", batch="many")
    with pytest.raises(ExportError, match="the scores have 2 columns, and the data set 2 classes"):
        settled(folder, file.model(), label_offset=1)


def plain(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 20]> m {text}')


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("(float[3,32,32] a, float[3,32,32] b) => (float[3,32,32] c) { c = Add(a, b) }", "one input is needed"),
        ("(int64[3,32,32] a) => (int64[3,32,32] c) { c = Identity(a) }", "the input a is int64"),
        ("(float[a,b,c] x) => (float[a,b,c] y) { y = Identity(x) }", "does not say which axis holds the colours"),
        ("(float[1,3,32,3] x) => (float[1,3,32,3] y) { y = Identity(x) }", "does not say which axis holds"),
        ("(float[2,3,32,32] x) => (float[2,3,32,32] y) { y = Identity(x) }", "takes 2 pictures at once"),
        ("(float[3,16,32] x) => (float[3,16,32] y) { y = Identity(x) }", "the height of x is 16 pixels"),
        ("(float[3,32,32] x) => (float[3,32,32] y) { y = Identity(x) }", r"which output holds the boxes .*y float32"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, sentence: str, folder: CocoFolder) -> None:
    with pytest.raises(ExportError, match=sentence):
        settled(folder, plain(text))


def test_hints_that_fit_nothing_are_named(folder: CocoFolder) -> None:
    model = ColourDetector().model()
    with pytest.raises(ExportError, match="`scores` says sure, but the file's outputs are where_, how_sure, what"):
        settled(folder, model, scores="sure")
    with pytest.raises(ExportError, match="`layout` says nchw, but the input picture has 3 axes"):
        settled(folder, model, layout="nchw")
    with pytest.raises(ExportError, match="`input` says image"):
        settled(folder, model, input="image")


def test_files_that_are_no_models_are_named(tmp_path: Path) -> None:
    path = tmp_path / "detector.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"detector\.onnx cannot be read as an ONNX model"):
        open_foreign(path)


def test_a_description_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "detector.yaml"
    path.write_text("{box_form: xyxy, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}")
    assert read_hints(path) == ForeignHints(box_form="xyxy", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    path.write_text("{boxform: xyxy, std: [1, 0, 1]}")
    with pytest.raises(ExportError, match=r"detector\.yaml does not describe a detector: boxform: Extra inputs"):
        read_hints(path)
    assert read_hints(None) == ForeignHints()
    with pytest.raises(ExportError, match=r"absent\.yaml cannot be read"):
        read_hints(tmp_path / "absent.yaml")


def test_colours_and_statistics_follow_the_description(folder: CocoFolder) -> None:
    """BGR pixels, (x / 100 - 0.3) / 2: what the file's limit sees of a picture can be said by hand."""
    found = settled(folder, ColourDetector().model(), channels="bgr", scale=1 / 100, mean=(0.3,) * 3, std=(2.0,) * 3)
    # The limit of 0.65 is a pixel of 160; red and blue have changed places, and so have their labels: from 1 they are
    # blue, red, which no reading says, so those of one colour only can hit, by union with the other.
    image = np.full((1, HEIGHT, WIDTH, 3), 128, np.uint8)
    image[0, 10:30, 20:60, 2] = 161
    image[0, 40:60, 20:60, 2] = 159
    boxes, p = open_session(detector_graph(found.detector, [1, 2], 1)).run(["boxes", "p"], {"images": image})
    np.testing.assert_allclose(boxes[0, 0], [20, 10, 60, 30])
    np.testing.assert_allclose(p[0, 0], [0.9, 0])
