"""Raw scores as the protocol carries them: requests, answers, refusals, and their lines in a journal."""

import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from calibox_client.errors import BadReplyError, OverloadedError
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.journal import Journal
from calibox_client.evaluation.raw_scores import RawImage, raw_request, read_raw, united
from calibox_client.replies import Reply
from calibox_core.fusion import Exponents
from calibox_core.manifest import InputSpec
from calibox_core.reranking import RawCandidates
from calibox_server.oip.http_body import read_infer
from calibox_server.oip.tensors import read_tensors
from tests.support.manifests import small_manifest

MANIFEST = small_manifest(name="tiny", version="3", input=InputSpec(height=32, width=64))


def candidates(*rows: tuple[float, int, float, float]) -> RawCandidates:
    """Squares from 0 to the first number, with label, p and q."""
    boxes = np.array([[0, 0, row[0], row[0]] for row in rows], np.float32).reshape(-1, 4)
    labels = np.array([row[1] for row in rows], np.int32)
    p, q = (np.array([row[n] for row in rows], np.float32) for n in (2, 3))
    return RawCandidates(boxes, labels, p, q)


def answer(found: RawCandidates, *, padding: int = 2) -> Reply:
    """What a server says of one image, with rows of padding."""
    outputs, data = [], b""
    for name, array in zip(("boxes", "labels", "classification_scores", "localization_scores"), found, strict=True):
        filler = np.full((padding, *array.shape[1:]), -1 if name == "labels" else 0, array.dtype)
        raw = np.concatenate([array, filler])[None]
        kind = "INT32" if name == "labels" else "FP32"
        size = {"binary_data_size": raw.nbytes}
        outputs.append({"name": f"candidate_{name}", "datatype": kind, "shape": list(raw.shape), "parameters": size})
        data += raw.tobytes()
    head = json.dumps({"model_name": "tiny", "model_version": "3", "outputs": outputs}).encode()
    return Reply(200, httpx2.Headers({"inference-header-content-length": str(len(head))}), head + data)


def same(one: RawCandidates, other: RawCandidates) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


FOUND = candidates((10, 0, 1 / 3, 0.9), (20, 2, 0.2, 1e-30), (30, 0, 0.1, 0.5))


def test_the_server_reads_what_is_asked() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    request = raw_request(MANIFEST, image, Exponents(0.5, 0.25, 0.125))
    assert request.path == "/v2/models/tiny/versions/3/infer"
    assert request.content is not None
    read = read_infer(request.content, int(request.headers["Inference-Header-Content-Length"]))
    arrays = read_tensors(read.tensors, MANIFEST)
    np.testing.assert_array_equal(arrays["images"][0], image)
    assert arrays["fusion"].tolist() == [[0.5, 0.25, 0.125]]
    assert {output.name.removeprefix("candidate_") for output in read.outputs} == {
        "boxes",
        "labels",
        "classification_scores",
        "localization_scores",
    }
    assert all(output.binary for output in read.outputs)
    assert read.timeout_ms == 600_000


@pytest.mark.parametrize("found", [FOUND, candidates()])
def test_an_answer_is_read_without_its_padding(found: RawCandidates) -> None:
    assert same(read_raw(answer(found)), found)


def test_a_refusal_keeps_the_servers_sentence() -> None:
    refused = Reply(400, httpx2.Headers(), b'{"error": "openvino does not tell what it had"}')
    with pytest.raises(EvaluationError, match="openvino does not tell what it had"):
        read_raw(refused)


def test_a_busy_server_is_asked_again() -> None:
    with pytest.raises(OverloadedError):
        read_raw(Reply(429, httpx2.Headers({"retry-after": "1"}), b'{"error": "full"}'))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"outputs": []}', b"<html>"])
@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_of_somebody_else_is_told(content: bytes, status: int) -> None:
    headers = httpx2.Headers({"inference-header-content-length": str(len(content))})
    with pytest.raises(BadReplyError, match="not that of POST"):
        read_raw(Reply(status, headers, content))


def test_candidates_of_several_rankings_are_each_there_once() -> None:
    more = candidates((20, 2, 0.2, 1e-30), (40, 1, 0.1, 0.1))
    wanted = candidates((10, 0, 1 / 3, 0.9), (20, 2, 0.2, 1e-30), (30, 0, 0.1, 0.5), (40, 1, 0.1, 0.1))
    assert same(united([FOUND, more, FOUND]), wanted)
    assert same(united([candidates(), candidates()]), candidates())


def test_a_journal_gives_raw_scores_back_to_the_last_bit(tmp_path: Path) -> None:
    fingerprint: dict[str, Any] = {"files": {}}
    kept = [RawImage(5, 640, 480, FOUND), RawImage(9, 10, 20, candidates())]
    with Journal(tmp_path / "j", fingerprint, RawImage.of_line) as journal:
        for image in kept:
            journal.add(image)
    with Journal(tmp_path / "j", fingerprint, RawImage.of_line) as journal:
        for image in kept:
            back = journal.answers[image.image_id]
            assert (back.width, back.height) == (image.width, image.height)
            assert same(back.candidates, image.candidates)
