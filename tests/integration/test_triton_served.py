"""`calibox export --triton` under a real Triton, beside `calibox serve`, on real images; skipped where there is none.

`CALIBOX_TRITONSERVER` names its program, or a script that adds options to it; else `tritonserver` is looked for. It
needs the back ends `onnxruntime` and `python`, and calibox in the Python of the latter.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.http
from numpy.typing import NDArray

from calibox_core.bundle import read_bundle
from calibox_core.images import decode_image
from calibox_core.letterbox import letterbox_into
from calibox_export.triton.config import TIMEOUT_US
from calibox_export.triton.repository import write_repository
from calibox_export.triton.run import layout_of
from tests.support.data import dataset
from tests.support.guide import blocks
from tests.support.live_server import live_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

VARIABLE = "CALIBOX_TRITONSERVER"
MODELS = Path(__file__).resolve().parents[2] / "models"
PATIENCE_S = 300
IMAGES = 24
SETTINGS: list[dict[str, Any]] = [
    {},
    {"fusion": "product", "score_threshold": 0.1, "iou_threshold": 0.6, "classes": "WBC,Platelets"},
    {"fusion": "geometric", "alpha": 0.7, "max_detections": 5},
    {"fusion": "gaussian", "sigma": 0.3, "score_threshold": 0.05},
]
KINDS = {"max_detections": ("INT32", np.int32), "fusion": ("BYTES", np.object_), "classes": ("BYTES", np.object_)}


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    folder = dataset("bccd")
    names = sorted(image["file_name"] for image in folder.annotations("val")["images"])[:IMAGES]
    return [(folder.images / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def triton(triton_url: str) -> Iterator[tritonclient.http.InferenceServerClient]:
    with tritonclient.http.InferenceServerClient(
        triton_url.removeprefix("http://"), network_timeout=PATIENCE_S
    ) as client:
        yield client


@pytest.fixture(scope="module")
def triton_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = os.environ.get(VARIABLE) or shutil.which("tritonserver")
    if program is None:
        pytest.skip(f"no tritonserver here; {VARIABLE} may name one")
    root = tmp_path_factory.mktemp("triton")
    write_repository(read_bundle(MODELS / "bccd/1"), root / "repository", layout_of("cpu", 2, 8))
    for config in root.glob("repository/*/config.pbtxt"):  # a machine that does other things too is slow
        config.write_text(config.read_text().replace(f": {TIMEOUT_US}\n", f": {PATIENCE_S * 1_000_000}\n"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--model-repository={root / 'repository'}", "--model-control-mode=explicit", "--load-model=bccd"]
    options += ["--load-model=bccd_detect", "--http-address=127.0.0.1", f"--http-port={port}"]
    options += ["--allow-grpc=false", "--allow-metrics=false"]
    with (root / "log").open("wb") as log, subprocess.Popen([program, *options], stdout=log, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url, process, root / "log")
            yield url
        finally:
            process.terminate()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < end:
        with suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/v2/health/ready").status_code == 200:
                return
        time.sleep(0.5)
    pytest.fail(f"Triton did not start: {log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="module")
def plain() -> Iterator[httpx2.Client]:
    # Triton gives each image a run of its own on a CPU; batches of other sizes round differently.
    with (
        live_server(MODELS, instances=1, intra_op_threads=1, max_batch=1, timeout_ms=PATIENCE_S * 1000) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


def tensor(name: str, kind: str, array: NDArray[Any]) -> tritonclient.http.InferInput:
    made = tritonclient.http.InferInput(name, array.shape, kind)
    made.set_data_from_numpy(array)
    return made


def detect(triton: Any, images: list[bytes], settings: dict[str, Any]) -> Any:
    inputs = [tensor("image", "BYTES", np.array([[image] for image in images], np.object_))]
    for name, value in settings.items():
        kind, dtype = KINDS.get(name, ("FP64", np.float64))
        sent = value.encode() if isinstance(value, str) else value
        inputs.append(tensor(name, kind, np.array([[sent]] * len(images), dtype)))
    return triton.infer("bccd_detect", inputs)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_documents_are_those_of_calibox_serve_to_the_last_digit(
    settings: dict[str, Any], triton: Any, plain: httpx2.Client, pictures: list[bytes]
) -> None:
    seen = 0
    for picture in pictures:
        answer = detect(triton, [picture], settings)
        expected = plain.post("/v1/detect", content=picture, params=settings).json()
        found = json.loads(answer.as_numpy("answer")[0, 0])
        assert {key: found[key] for key in ("model", "version", "results")} == {
            key: expected[key] for key in ("model", "version", "results")
        }
        rows = expected["results"][0]["detections"]
        assert answer.as_numpy("num_detections").tolist() == [[len(rows)]]
        boxes = np.array([row["box"] for row in rows], np.float32).reshape(-1, 4)
        assert np.array_equal(answer.as_numpy("boxes")[0, : len(rows)], boxes)
        seen += len(rows)
    assert seen > IMAGES


def test_a_request_of_many_images_and_many_requests_at_once_are_answered_alike(
    triton: Any, triton_url: str, pictures: list[bytes]
) -> None:
    alone = [detect(triton, [picture], {}).as_numpy("answer")[0, 0] for picture in pictures]
    groups = [pictures[at : at + 8] for at in range(0, len(pictures), 8)]
    assert [one for group in groups for one in detect(triton, group, {}).as_numpy("answer")[:, 0]] == alone
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda picture: alone_over_http(triton_url, picture), pictures)) == alone


def alone_over_http(url: str, picture: bytes) -> bytes:
    """`detect` without tritonclient, whose HTTP client is for one thread."""
    image = tensor("image", "BYTES", np.array([[picture]], np.object_))
    wanted = [tritonclient.http.InferRequestedOutput("answer", binary_data=False)]
    body, length = tritonclient.http.InferenceServerClient.generate_request_body([image], outputs=wanted)
    headers = {"Inference-Header-Content-Length": str(length)}
    answer = httpx2.post(f"{url}/v2/models/bccd_detect/infer", content=body, headers=headers, timeout=PATIENCE_S)
    (output,) = answer.json()["outputs"]
    text: str = output["data"][0]
    return text.encode()


def test_the_graphs_own_tensors_are_those_of_calibox_serve(
    triton: Any, plain: httpx2.Client, pictures: list[bytes]
) -> None:
    manifest = read_bundle(MODELS / "bccd/1").manifest
    slots = np.empty((3, manifest.input.height, manifest.input.width, 3), np.uint8)
    for slot, picture in zip(slots, pictures, strict=False):
        letterbox_into(slot, decode_image(picture), pad_value=manifest.input.pad_value)
    settings = {
        "fusion": np.tile(np.array(manifest.fusion.exponents(), np.float32), (3, 1)),
        "score_threshold": np.full((3, 1), 0.3, np.float32),
        "iou_threshold": np.full((3, 1), 0.5, np.float32),
        "refine_steps": np.zeros((3, 1), np.int32),
    }
    kinds = {"float32": "FP32", "int32": "INT32"}

    def ask(rows: slice) -> Any:
        given = [tensor(name, kinds[array.dtype.name], array[rows]) for name, array in settings.items()]
        return triton.infer("bccd", [tensor("images", "UINT8", slots[rows]), *given])

    ours = tritonclient.http.InferenceServerClient(plain.base_url.netloc.decode(), network_timeout=PATIENCE_S)
    for image in range(3):
        one = slice(image, image + 1)
        theirs, mine = ask(one), ours.infer("bccd", [tensor("images", "UINT8", slots[one])])
        for name in ("boxes", "labels", "classification_scores", "localization_scores", "scores"):
            assert np.array_equal(theirs.as_numpy(name), mine.as_numpy(name)), name
        assert theirs.as_numpy("num_detections").tolist() == [mine.as_numpy("num_detections").tolist()]
    together = ask(slice(None))  # one run of three images, whose sums round differently
    mine = ours.infer("bccd", [tensor("images", "UINT8", slots)])
    assert together.as_numpy("num_detections")[:, 0].tolist() == mine.as_numpy("num_detections").tolist()
    assert np.allclose(together.as_numpy("scores"), mine.as_numpy("scores"), rtol=0, atol=1e-5)
    assert np.allclose(together.as_numpy("boxes"), mine.as_numpy("boxes"), rtol=0, atol=0.01)


def test_the_guides_client_works(
    triton_url: str, pictures: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cells.jpg").write_bytes(pictures[0])
    (code,) = blocks("triton.md", "python", "")
    exec(code.replace("127.0.0.1:8000", triton_url.removeprefix("http://")), {})
    assert " 0." in capsys.readouterr().out


def test_a_refusal_is_the_servers_sentence(triton: Any, plain: httpx2.Client, pictures: list[bytes]) -> None:
    with pytest.raises(tritonclient.http.InferenceServerException) as failed:
        detect(triton, [pictures[0]], {"fusion": "sum"})
    refused = plain.post("/v1/detect", content=pictures[0], params={"fusion": "sum"})
    assert (failed.value.status(), failed.value.message()) == ("400", refused.json()["detail"])
