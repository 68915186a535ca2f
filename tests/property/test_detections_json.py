"""The writer of answers against a document of rows, which the encoder writes value by value."""

from typing import Any

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibox_core.manifest import ClassInfo
from calibox_server.detections import ImageDetections
from calibox_server.detections_json import DetectionsWriter
from tests.support.manifests import small_manifest

NAMES = ('a "quoted" one', "b],[c", "{x}, ü\n")
MANIFEST = small_manifest(classes=tuple(ClassInfo(name=name, category_id=7 * i) for i, name in enumerate(NAMES)))
WRITER = DetectionsWriter(MANIFEST)
floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@st.composite
def detections(draw: st.DrawFn) -> ImageDetections:
    n = draw(st.integers(0, 5))
    rows = draw(hnp.arrays(np.float32, (n, 7), elements=floats))
    if draw(st.booleans()):
        rows = np.asfortranarray(rows)  # its rows do not lie in one piece, its columns do
    labels = draw(hnp.arrays(np.int32, n, elements=st.integers(0, len(NAMES) - 1)))
    width, height = draw(st.integers(1, 10**5)), draw(st.integers(1, 10**5))
    return ImageDetections(width, height, rows[:, :4], labels, rows[:, 4], rows[:, 5], rows[:, 6])


def plain(found: list[ImageDetections], timing: dict[str, float]) -> bytes:
    results: list[dict[str, Any]] = []
    for one in found:
        told = []
        for i in range(len(one.labels)):
            label = one.labels[i]
            told.append(
                {
                    "box": [one.boxes[i, k] for k in range(4)],
                    "label": MANIFEST.classes[label].name,
                    "label_id": MANIFEST.classes[label].category_id,
                    "score": one.scores[i],
                    "classification_score": one.classification_scores[i],
                    "localization_score": one.localization_scores[i],
                }
            )
        results.append({"width": one.width, "height": one.height, "detections": told})
    document = {"model": MANIFEST.name, "version": MANIFEST.version, "results": results, "timing": timing}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


@given(st.lists(detections(), max_size=3), st.dictionaries(st.sampled_from(["decode", "total"]), st.floats(0, 1e5)))
def test_an_answer_is_byte_for_byte_the_document_of_its_rows(
    found: list[ImageDetections], timing: dict[str, float]
) -> None:
    assert WRITER.write(found, timing) == plain(found, timing)
