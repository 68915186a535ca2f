"""`calibox calibrate` and operating points through a real server."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from calibox_client import Client
from calibox_core.bundle import read_bundle
from calibox_core.dataset import CocoFolder
from calibox_core.fusion import Fusion, FusionName
from calibox_core.nms import NmsAttributes
from calibox_core.score_map import ScoreMap
from calibox_server.serve import Server
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle
from tests.support.command_line import CommandLine
from tests.support.eval_folders import make_eval_folder
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import grpc_address, live_server, running, server_url
from tests.support.manifests import small_point
from tests.support.oip import OUTPUTS, Triton, letterboxed, triton_grpc, triton_http
from tests.support.pictures import encoded, picture

ALL_PAIRS = NmsAttributes(pre_nms_top_k=12 * 16 * 3, max_detections=50, candidate_floor=0.0)
BENT = ScoreMap(raw=(0, 0.2, 1), mapped=(0, 0.5, 1))
POWER = Fusion(name=FusionName.POWER, alpha=0.5)
POINTS = (
    small_point("common", fusion=POWER, score_threshold=0.6, class_thresholds={}),
    small_point("apart", fusion=POWER, score_threshold=0.6, class_thresholds={"class-0": 0.5, "class-2": 0.7}),
)
EXPLICIT = {"fusion": "power", "alpha": 0.5, "score_threshold": 0.6}
SHOWN = picture(width=200, height=150, seed=3)
JPEG = encoded(SHOWN, "JPEG")
RAW = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("pointed")
    make_tiny_bundle(root, schema_version=2, score_map=BENT, operating_points=POINTS)
    settings = Settings(models=root, grpc_port=0, log_level="warning")
    with running(Service.load(settings)) as started:
        yield started


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    return server_url(server)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=PATIENCE_S) as opened:
        yield opened


def found(client: httpx2.Client, **parameters: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/detect", content=JPEG, headers=RAW, params=parameters)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["results"][0]["detections"])


def each_at_its_own(client: httpx2.Client, **parameters: Any) -> list[dict[str, Any]]:
    """What the point `apart` should give: everything above the least threshold, by class."""
    own = {"class-0": 0.5, "class-1": 0.6, "class-2": 0.7}
    everything = found(client, fusion="power", alpha=0.5, score_threshold=0.5, **parameters)
    kept = [one for one in everything if one["score"] >= own[one["label"]]]
    assert 0 < len(kept) < len(everything)
    return kept


def test_an_operating_point_is_what_its_values_are_one_by_one(client: httpx2.Client) -> None:
    at_point = found(client, operating_point="common")
    assert at_point == found(client, **EXPLICIT)
    assert 0 < len(at_point) < len(found(client, score_threshold=0))
    assert found(client, operating_point="apart") == each_at_its_own(client)
    tiled = each_at_its_own(client, tile="true")  # of the 50 best; the point has its own before it counts to 50
    assert found(client, operating_point="apart", tile="true")[: len(tiled)] == tiled
    assert found(client, operating_point="apart", max_detections=2) == each_at_its_own(client)[:2]
    lower = found(client, operating_point="apart", score_threshold=0.05)
    assert lower == found(client, **(EXPLICIT | {"score_threshold": 0.05}))


def test_every_way_of_asking_knows_the_point(client: httpx2.Client, url: str) -> None:
    expected = found(client, operating_point="apart")
    form = client.post("/v1/detect", files={"file": JPEG}, data={"operating_point": "apart"})
    assert form.json()["results"][0]["detections"] == expected
    document = {"image": base64.b64encode(JPEG).decode(), "operating_point": "apart"}
    assert client.post("/v1/detect", json=document).json()["results"][0]["detections"] == expected
    with Client(url) as sdk:
        by_sdk = sdk.detect(JPEG, operating_point="apart")
        frames = list(sdk.stream([JPEG], operating_point="apart"))
    scores = [one["score"] for one in expected]
    assert by_sdk.scores.tolist() == pytest.approx(scores)
    assert frames[0].detections.scores.tolist() == pytest.approx(scores)


def test_an_unknown_point_is_answered_with_those_that_there_are(client: httpx2.Client) -> None:
    answer = client.post("/v1/detect", content=JPEG, headers=RAW, params={"operating_point": "precise"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert "operating_point must be one of common, apart, got 'precise'" in answer.json()["detail"]


def test_the_server_tells_its_points(client: httpx2.Client) -> None:
    (version,) = client.get("/v1/models/tiny").json()["versions"]
    assert [point["name"] for point in version["operating_points"]] == ["common", "apart"]
    assert version["operating_points"][1]["class_thresholds"] == {"class-0": 0.5, "class-2": 0.7}
    assert version["manifest"]["operating_points"] == version["operating_points"]
    schema = client.get("/openapi.json").json()["paths"]["/v1/detect"]["post"]["parameters"]
    assert "operating_point" in {parameter["name"] for parameter in schema}


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_open_inference_protocol_knows_the_point(server: Server, transport: str) -> None:
    http = server_url(server).removeprefix("http://")
    with triton_http(http) if transport == "http" else triton_grpc(grpc_address(server)) as triton:
        judge_points(triton)


def judge_points(triton: Triton) -> None:
    """What every transport has to answer."""
    images = letterboxed(SHOWN)

    def infer(parameters: dict[str, Any], **arrays: Any) -> dict[str, Any]:
        answer = triton.client.infer("tiny", triton.inputs({"images": images, **arrays}), parameters=parameters)
        return {name: answer.as_numpy(name) for name in OUTPUTS}

    fusion = np.array([POWER.exponents()], np.float32)
    common = infer({"operating_point": "common"})
    threshold = np.array([BENT.invert(0.6)], np.float32)
    told = infer({}, fusion=fusion, score_threshold=threshold)
    assert {name: array.tobytes() for name, array in common.items()} == {n: a.tobytes() for n, a in told.items()}
    apart = infer({"operating_point": "apart"})
    least = infer({}, fusion=fusion, score_threshold=np.array([BENT.invert(0.5)], np.float32))
    own = np.array([BENT.invert(value) for value in (0.5, 0.6, 0.7)], np.float32)
    count = int(least["num_detections"][0])
    kept = np.flatnonzero(least["scores"][0, :count] >= own[least["labels"][0, :count]])
    assert 0 < len(kept) < count
    assert apart["num_detections"].tolist() == [len(kept)]
    assert apart["boxes"][0, : len(kept)].tolist() == least["boxes"][0, kept].tolist()
    assert apart["labels"][0, len(kept) :].tolist() == [-1] * (50 - len(kept))
    with pytest.raises(InferenceServerException, match="operating_point must be one of common, apart, got 'precise'"):
        infer({"operating_point": "precise"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    root = tmp_path_factory.mktemp("calibrated")
    return make_eval_folder(root / "data", make_tiny_bundle(root / "models", nms=ALL_PAIRS), images=8)


def test_a_calibrated_bundle_is_served_and_keeps_what_it_promised(
    calibox: CommandLine, folder: CocoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibox_client.evaluation.rates.DRAWS", 50)
    models = folder.root.parent / "models"
    options = ("--data", folder.root, "--output", tmp_path / "c.json", "--report", tmp_path / "c.html", "--json")
    rates = ("--precision", 0.4, "--recall", 0.5, "--one-threshold")
    with live_server(models, max_batch=1) as url:
        done = calibox("calibrate", models / "tiny" / "1", "--server", url, *rates, *options)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    new = read_bundle(models / "tiny" / "2")
    assert document["bundle"] == str(new.folder)
    assert new.manifest.files == read_bundle(models / "tiny" / "1").manifest.files
    assert [point.name for point in new.manifest.operating_points] == ["precision40", "recall50"]
    assert document["AP"]["before"] == pytest.approx(document["AP"]["after"], abs=1e-12)
    assert "<svg" in (tmp_path / "c.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "c.json"]  # no journal is left

    with live_server(models, max_batch=1) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        where = ("--server", url, "--data", folder.root, "--output", tmp_path / "r.json", "--json")
        for point in new.manifest.operating_points:
            for half, promised in (("calibration", point.calibration), ("test", point.test)):
                measured = calibox("eval", *where, "--half", half, "--operating-point", point.name)
                assert measured.code == 0, measured.err
                told = json.loads(measured.out)["operating_point"]
                assert (told["name"], told["detections"], told["objects"]) == (
                    point.name,
                    promised.detections,
                    promised.objects,
                )
                assert told["precision"] == promised.precision.model_dump()
        before, after = (json.loads(calibox("eval", *where, "--version", version).out) for version in ("1", "2"))
        assert after["AP"] == pytest.approx(before["AP"], abs=1e-6)  # scores that float32 no longer tells apart
        assert "calibrated" not in before
        with Image.open(folder.images / "1.png") as image:
            body = encoded(image.convert("RGB"), "PNG")
        kinds = {"Content-Type": "image/png"}
        usual = [
            client.post("/v1/detect", content=body, headers=kinds, params={"version": v}).json()["results"][0]
            for v in ("1", "2")
        ]
        boxes = [[one["box"] for one in result["detections"]] for result in usual]
        if new.manifest.fusion == read_bundle(models / "tiny" / "1").manifest.fusion:
            assert boxes[0] == boxes[1]  # the default threshold moved with the map
    again = calibox("calibrate", models / "tiny" / "1", "--data", folder.root, "--version", "2")
    assert (again.code, "exists; choose another version" in again.err) == (1, True)


def test_what_cannot_be_calibrated_is_told(calibox: CommandLine, folder: CocoFolder, tmp_path: Path, url: str) -> None:
    bundle = folder.root.parent / "models" / "tiny" / "1"
    base = ("--data", folder.root, "--output", tmp_path / "c.json", "--version", "9")
    other = calibox("calibrate", bundle, "--server", url, *base)
    assert (other.code, "serves a tiny/1 with other files than" in other.err) == (1, True)
    percent = calibox("calibrate", bundle, "--server", url, "--precision", "90", *base)
    assert (percent.code, "a rate lies between 0 and 1, like 0.9" in percent.err) == (1, True)
    nowhere = calibox("calibrate", bundle, "--server", "ftp://x", *base)
    assert (nowhere.code, "is no server address" in nowhere.err) == (1, True)


def test_an_evaluation_tells_of_the_map_and_of_the_point(
    calibox: CommandLine, folder: CocoFolder, tmp_path: Path, url: str
) -> None:
    where = ("--server", url, "--data", folder.root, "--output", tmp_path / "r.json", "--operating-point", "apart")
    done = calibox("eval", *where, "--report", tmp_path / "e.html")
    assert done.code == 0, done.err
    assert "On these images the score map " in done.out
    assert "at apart, IoU 0.5: precision " in done.out
    told = json.loads((tmp_path / "e.json").read_text())
    page = (tmp_path / "e.html").read_text()
    assert "<h2>The score map</h2>" in page
    assert "<h2>At apart</h2>" in page
    bent, graph = (told["calibrated"][key]["all_LaACE0"] for key in ("with_map", "without_map"))
    assert bent == pytest.approx(told["calibration"]["score"]["errors"]["all_LaACE0"])
    assert abs(bent - graph) > 0.01
    refused = calibox("eval", *where, "--sweep")
    assert (refused.code, "leave --operating-point out" in refused.err) == (1, True)
