"""The Open Inference Protocol through tritonclient, unmodified, over HTTP and gRPC."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import onnxruntime
import orjson
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from calibox_core import __version__
from calibox_server.engine import CandidateOutput
from calibox_server.oip.grpc_messages import MESSAGES
from calibox_server.oip.grpc_server import SPARE_CALLS
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import gated, metric, wait_until
from tests.support.live_server import grpc_address, running, server_url
from tests.support.oip import OUTPUTS, Triton, letterboxed, same, triton_grpc, triton_http
from tests.support.pictures import encoded, picture

PICTURES = [picture(width=200, height=120), picture(width=90, height=150, seed=1), picture(seed=2)]
IMAGES = letterboxed(*PICTURES)
PNG = {"Content-Type": "image/png"}
MAX_BYTES = 600_000


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[tuple[str, str]]:
    """Addresses of one server, over HTTP and over gRPC."""
    settings = Settings(models=models, grpc_port=0, max_images=8, max_bytes=MAX_BYTES, log_level="warning")
    with running(Service.load(settings)) as running_server:
        yield server_url(running_server).removeprefix("http://"), grpc_address(running_server)


@pytest.fixture(params=["http", "grpc"])
def triton(request: pytest.FixtureRequest, server: tuple[str, str]) -> Iterator[Triton]:
    http, over_grpc = server
    with triton_http(http) if request.param == "http" else triton_grpc(over_grpc) as client:
        yield client


@pytest.fixture
def plain(server: tuple[str, str]) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{server[0]}", timeout=PATIENCE_S) as client:
        yield client


def as_dict(triton: Triton, method: str, *arguments: Any) -> Any:
    options = {"as_json": True} if "grpc" in triton.module.__name__ else {}
    return getattr(triton.client, method)(*arguments, **options)


def test_health_and_metadata_are_told(triton: Triton) -> None:
    assert triton.client.is_server_live()
    assert triton.client.is_server_ready()
    assert [triton.client.is_model_ready(*model) for model in (("tiny",), ("tiny", "1"))] == [True, True]
    assert [triton.client.is_model_ready(*model) for model in (("tiny", "2"), ("other",))] == [False, False]
    about = as_dict(triton, "get_server_metadata")
    assert (about["name"], about["version"]) == ("calibox", __version__)
    assert set(about["extensions"]) == {"binary_tensor_data", "schedule_policy"}
    model = as_dict(triton, "get_model_metadata", "tiny", "1")
    assert (model["name"], model["versions"]) == ("tiny", ["1"])
    shapes = {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in model["inputs"] + model["outputs"]}
    assert shapes["images"] == [-1, 96, 128, 3]
    assert shapes["boxes"] == [-1, 50, 4]
    assert [tensor["name"] for tensor in model["outputs"]] == list(OUTPUTS)


def test_both_transports_and_every_form_of_data_give_the_same_answer(server: tuple[str, str]) -> None:
    with triton_http(server[0]) as http, triton_grpc(server[1]) as over_grpc:
        answer = http.infer(images=IMAGES)
        assert answer["num_detections"].min() > 3
        assert same(answer, over_grpc.infer(images=IMAGES))
        inputs = http.inputs({"images": IMAGES}, binary_data=False)
        outputs = http.outputs(OUTPUTS[:3], binary_data=False) + http.outputs(OUTPUTS[3:], binary_data=True)
        listed = http.client.infer("tiny", inputs, outputs=outputs)
        assert same(answer, {name: listed.as_numpy(name) for name in OUTPUTS})
        alone = [http.infer(images=IMAGES[i : i + 1]) for i in range(3)]
        assert same(answer, {name: np.concatenate([one[name] for one in alone]) for name in OUTPUTS})


def test_typed_contents_over_grpc_give_the_same_answer(server: tuple[str, str]) -> None:
    request = MESSAGES["inference.ModelInferRequest"](
        model_name="tiny",
        inputs=[
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": [1, 96, 128, 3],
                "contents": {"uint_contents": IMAGES[0].ravel().tolist()},
            }
        ],
    )
    answer = call(server[1], "inference.GRPCInferenceService/ModelInfer", request, "inference.ModelInferResponse")
    found = {output.name: raw for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)}
    with triton_grpc(server[1]) as over_grpc:
        expected = over_grpc.infer(images=IMAGES[:1])
    assert found == {name: array.tobytes() for name, array in expected.items()}


def test_a_call_over_grpc_tells_its_id_and_times_at_its_end(server: tuple[str, str]) -> None:
    request = MESSAGES["inference.ModelInferRequest"](
        model_name="tiny",
        inputs=[{"name": "images", "datatype": "UINT8", "shape": [1, 96, 128, 3]}],
        raw_input_contents=[IMAGES[0].tobytes()],
    )
    with grpc.insecure_channel(server[1]) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        options = {"timeout": PATIENCE_S, "metadata": [("x-request-id", "my-id.7")]}
        _, ended = infer.with_call(request.SerializeToString(), **options)
        told = dict(ended.trailing_metadata())
        assert told["x-request-id"] == "my-id.7"
        assert "engine;dur=" in told["server-timing"]
        with pytest.raises(grpc.RpcError) as refused:
            infer(b"", **options)
        told = dict(refused.value.trailing_metadata())
        assert (told["x-request-id"], told["calibox-code"]) == ("my-id.7", "unknown_model")


def call(address: str, method: str, request: Any, response: str) -> Any:
    with grpc.insecure_channel(address) as channel:
        unary = channel.unary_unary(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES[response].FromString,
        )
        return unary(request, timeout=PATIENCE_S)


def test_the_tensors_are_those_behind_the_detections_of_v1(triton: Triton, plain: httpx2.Client) -> None:
    found = triton.infer(images=IMAGES[:1])
    document = plain.post("/v1/detect", content=encoded(PICTURES[0]), headers=PNG).json()["results"][0]["detections"]
    count = found["num_detections"][0]
    assert count == len(document) > 3
    scores = {name: [d[name[:-1]] for d in document] for name in OUTPUTS[3:]}
    for name, expected in scores.items():
        assert np.array_equal(found[name][0, :count], np.array(expected, np.float32))
    assert (found["labels"][0, :count] + 1).tolist() == [d["label_id"] for d in document]
    # 200 x 120 into 128 x 96: scale 0.64, 128 x 76.8 pixels wide and high (77), 9 rows of padding above.
    original = (found["boxes"][0, :count] - [0, 9, 0, 9]) / 0.64
    assert np.abs(np.array([d["box"] for d in document]) - original.clip(0, [200, 120, 200, 120])).max() < 0.5
    assert (found["labels"][0, count:] == -1).all()


def test_each_image_is_answered_by_its_own_settings(triton: Triton) -> None:
    settings: dict[str, NDArray[Any]] = {
        "fusion": np.array([[1, 0, 0], [0.5, 0.5, 0], [1, 2, 0]], np.float32),
        "score_threshold": np.array([0.0, 0.4, 0.0], np.float32),
        "iou_threshold": np.array([0.5, 0.5, 0.9], np.float32),
        "refine_steps": np.zeros(3, np.int32),
    }
    together = triton.infer(images=IMAGES, **settings)
    for i in range(3):
        alone = triton.infer(images=IMAGES[i : i + 1], **{name: array[i : i + 1] for name, array in settings.items()})
        assert same(alone, {name: array[i : i + 1] for name, array in together.items()})
    assert together["scores"][1, : together["num_detections"][1]].min() >= 0.4


def test_what_is_not_sent_is_the_models_own(triton: Triton) -> None:
    own = {
        "fusion": np.array([[0.5, 0.5, 0]], np.float32),
        "score_threshold": np.array([0.3], np.float32),
        "iou_threshold": np.array([0.5], np.float32),
    }
    assert same(triton.infer(images=IMAGES[:1]), triton.infer(images=IMAGES[:1], **own))


def test_a_request_without_images_is_an_answer_without_rows(triton: Triton) -> None:
    found = triton.infer(images=IMAGES[:0])
    assert {name: array.shape[0] for name, array in found.items()} == dict.fromkeys(OUTPUTS, 0)


def test_outputs_are_those_that_were_asked_for_and_the_id_comes_back(triton: Triton) -> None:
    outputs = triton.outputs(["scores", "boxes"])
    answer = triton.client.infer("tiny", triton.inputs({"images": IMAGES[:1]}), "1", outputs, "number 7")
    response = answer.get_response()
    fields = response if isinstance(response, dict) else {"id": response.id, "outputs": response.outputs}
    assert fields["id"] == "number 7"
    assert answer.as_numpy("labels") is None
    assert answer.as_numpy("boxes").shape == (1, 50, 4)


@pytest.mark.parametrize(
    ("model", "arrays", "options", "sentence", "http", "over_grpc"),
    [
        ("other", {}, {}, "there is no model 'other'; served are tiny", 404, "NOT_FOUND"),
        ("tiny", {"images": IMAGES[:, :90]}, {}, "must have the shape [B, 96, 128, 3]", 400, "INVALID_ARGUMENT"),
        ("tiny", {"images": IMAGES.astype(np.int32)}, {}, "must be UINT8, got 'INT32'", 400, "INVALID_ARGUMENT"),
        ("tiny", {"image": IMAGES}, {}, "there is no input 'image'", 400, "INVALID_ARGUMENT"),
        ("tiny", {"images": IMAGES}, {"sequence_id": 3}, "there is no request parameter 'seq", 400, "INVALID_ARGUMENT"),
        (
            "tiny",
            {"images": IMAGES[:1], "iou_threshold": np.array([2], np.float32)},
            {},
            "iou_threshold of image 0 must be within 0..1, got 2",
            422,
            "INVALID_ARGUMENT",
        ),
        ("tiny", {"images": IMAGES[[0] * 9]}, {}, "9 images in one request", 400, "INVALID"),
        ("tiny", {"images": IMAGES[[0] * 17]}, {}, "", 413, "RESOURCE_EXHAUSTED"),
    ],
)  # fmt: skip
def test_a_refusal_is_a_sentence_and_a_status(
    triton: Triton,
    model: str,
    arrays: dict[str, NDArray[Any]],
    options: dict[str, Any],
    sentence: str,
    http: int,
    over_grpc: str,
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        triton.client.infer(model, triton.inputs(arrays), **options)
    status = str(refused.value.status())
    assert status == str(http) or over_grpc in status
    assert sentence in str(refused.value.message())


def test_errors_have_the_protocols_form_wherever_they_come_from(plain: httpx2.Client) -> None:
    answers = [
        (plain.get("/v2/models/other"), 404),
        (plain.get("/v2/models/tiny/versions/2/ready"), 404),
        (plain.get("/v2/nothing/here"), 404),
        (plain.get("/v2/models/tiny/infer"), 405),
        (plain.post("/v2/models/tiny/infer", content=b"{"), 400),
        (plain.post("/v2/models/tiny/infer", content=b"x" * (MAX_BYTES + 1)), 413),
        (plain.post("/v2/models/tiny/infer", content=b"{}", headers={"Content-Encoding": "gzip"}), 415),
    ]
    for answer, status in answers:
        assert answer.status_code == status
        assert answer.json().keys() == {"error"}
        assert answer.headers["X-Request-Id"]
    assert plain.get("/v2/health/live").json() == {"live": True}
    assert plain.get("/v2/health/ready").json() == {"ready": True}
    assert plain.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}


def test_requests_are_counted_as_those_of_v1_and_tell_their_times(models: Path) -> None:
    with gated(models, grpc_port=0) as server:
        with triton_grpc(server.grpc_address) as over_grpc:
            over_grpc.infer(images=IMAGES)
            with pytest.raises(InferenceServerException):
                over_grpc.infer(images=IMAGES[:, :90])
        body = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [0, 96, 128, 3], "data": []}]}
        answer = server.client.post("/v2/models/tiny/infer", json=body)
        assert answer.status_code == 200
        assert "engine;dur=" in answer.headers["Server-Timing"]
        counted = {code: metric(server.client, "calibox_requests_total", code=code) for code in ("ok", "malformed")}
        assert counted == {"ok": 2, "malformed": 1}
        assert metric(server.client, "calibox_images_total", model="tiny") == 3


def test_images_share_batches_with_those_of_v1_and_change_nothing(models: Path) -> None:
    with gated(models, max_batch=8, grpc_port=0) as server, ThreadPoolExecutor(4) as callers:
        http = server.client.base_url.netloc.decode()

        def over_http() -> dict[str, NDArray[Any]]:
            with triton_http(http) as client:
                return client.infer(images=IMAGES, score_threshold=np.array([0, 0.2, 0.5], np.float32))

        def over_grpc() -> dict[str, NDArray[Any]]:
            with triton_grpc(server.grpc_address) as client:
                return client.infer(images=IMAGES[1:])

        def detect() -> Any:
            return server.client.post("/v1/detect", content=encoded(PICTURES[0]), headers=PNG).json()["results"]

        alone = over_http(), over_grpc(), detect()
        server.engine.forget()
        server.engine.gate.clear()
        first = callers.submit(detect)
        server.engine.wait_for_run()
        calls = [callers.submit(call) for call in (over_http, over_grpc, detect)]
        wait_until(lambda: metric(server.client, "calibox_queue_depth") == 6)
        server.engine.gate.set()
        together = [call.result() for call in calls]
        assert [len(batch.images) for batch in server.engine.batches] == [1, 6]
        assert same(together[0], alone[0])
        assert same(together[1], alone[1])
        assert together[2] == first.result() == alone[2]


def test_a_full_queue_refuses_over_either_transport(models: Path) -> None:
    with gated(models, queue_size=2, grpc_port=0) as server, ThreadPoolExecutor(1) as callers:
        body = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [0, 96, 128, 3], "data": []}]}
        server.engine.gate.clear()
        with triton_grpc(server.grpc_address) as over_grpc:
            held = callers.submit(over_grpc.infer, images=IMAGES[:2])
            server.engine.wait_for_run()
            refused = server.client.post("/v2/models/tiny/infer", json=body)
            assert refused.status_code == 429
            assert "2 of 2 places in the queue are taken" in refused.json()["error"]
            assert int(refused.headers["Retry-After"]) >= 1
            with pytest.raises(InferenceServerException, match="places in the queue are taken") as over:
                over_grpc.infer(images=IMAGES[:1])
            assert over.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
            server.engine.gate.set()
            assert held.result()["num_detections"].shape == (2,)


def test_a_deadline_ends_what_waits_over_either_transport(models: Path) -> None:
    with gated(models, grpc_port=0) as server, ThreadPoolExecutor(1) as callers:
        http = server.client.base_url.netloc.decode()
        server.engine.gate.clear()
        with triton_grpc(server.grpc_address) as over_grpc, triton_http(http) as over_http:
            held = callers.submit(over_grpc.infer, images=IMAGES[:1])
            server.engine.wait_for_run()
            for client, status in ((over_http, "504"), (over_grpc, "StatusCode.DEADLINE_EXCEEDED")):
                with pytest.raises(InferenceServerException, match="deadline passed in the queue") as late:
                    client.client.infer("tiny", client.inputs({"images": IMAGES[:1]}), timeout=50_000)
                assert late.value.status() == status
            with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
                over_grpc.client.infer("tiny", over_grpc.inputs({"images": IMAGES[:1]}), client_timeout=0.05)
            wait_until(lambda: metric(server.client, "calibox_queue_depth") == 0)
            server.engine.gate.set()
            assert held.result()["num_detections"].shape == (1,)
        assert len(server.engine.batches) == 1


def test_a_client_that_cancels_takes_its_queued_images_with_it(models: Path) -> None:
    with gated(models, grpc_port=0) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        with triton_grpc(server.grpc_address) as over_grpc:
            held = callers.submit(over_grpc.infer, images=IMAGES[:1])
            server.engine.wait_for_run()
            ended = threading.Event()
            leaver = over_grpc.client.async_infer(
                "tiny", over_grpc.inputs({"images": IMAGES}), lambda result, error: ended.set()
            )
            wait_until(lambda: metric(server.client, "calibox_queue_depth") == 3)
            leaver.cancel()
            assert ended.wait(PATIENCE_S)
            wait_until(lambda: metric(server.client, "calibox_requests_total", code="client_closed") == 1)
            assert metric(server.client, "calibox_queue_depth") == 0
            server.engine.gate.set()
            assert held.result()["num_detections"].shape == (1,)
        assert len(server.engine.batches) == 1


def test_a_client_that_leaves_over_http_takes_its_queued_images_with_it(models: Path) -> None:
    body = orjson.dumps(
        {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 96, 128, 3], "data": IMAGES[:1].tolist()}]}
    )
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with gated(models, grpc_port=0) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        with triton_grpc(server.grpc_address) as client:
            held = callers.submit(client.infer, images=IMAGES[:1])
            server.engine.wait_for_run()
            with socket.create_connection(("127.0.0.1", server.port)) as leaver:
                leaver.sendall(head.encode() + body)
                wait_until(lambda: metric(server.client, "calibox_queue_depth") == 1)
            wait_until(lambda: metric(server.client, "calibox_requests_total", code="client_closed") == 1)
            assert metric(server.client, "calibox_queue_depth") == 0
            server.engine.gate.set()
            assert held.result()["num_detections"].shape == (1,)
        assert len(server.engine.batches) == 1


def test_the_high_priority_goes_first(models: Path) -> None:
    with gated(models, grpc_port=0) as server, ThreadPoolExecutor(3) as callers:
        server.engine.gate.clear()
        with triton_grpc(server.grpc_address) as client:

            def infer(image: int, priority: int) -> None:
                client.client.infer("tiny", client.inputs({"images": IMAGES[image : image + 1]}), priority=priority)

            calls = [callers.submit(infer, 0, 0)]
            server.engine.wait_for_run()
            calls.append(callers.submit(infer, 1, 2))
            wait_until(lambda: metric(server.client, "calibox_queue_depth") == 1)
            calls.append(callers.submit(infer, 2, 1))
            wait_until(lambda: metric(server.client, "calibox_queue_depth") == 2)
            server.engine.gate.set()
            for call in calls:
                call.result()
        order = [
            [bool((batch.images[0] == image).all()) for image in IMAGES].index(True) for batch in server.engine.batches
        ]
        assert order == [0, 2, 1]


def test_a_stopping_server_is_not_ready_and_says_so(models: Path) -> None:
    with gated(models, grpc_port=0) as server, triton_grpc(server.grpc_address) as over_grpc:
        health = health_of(server.grpc_address)
        server.service.stop()
        assert server.client.get("/v2/health/ready").status_code == 503
        assert server.client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": False}
        assert not over_grpc.client.is_server_ready()
        assert not over_grpc.client.is_model_ready("tiny")
        with pytest.raises(InferenceServerException, match="stopping") as refused:
            over_grpc.infer(images=IMAGES[:1])
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        assert (health, health_of(server.grpc_address)) == (SERVING, NOT_SERVING)


SERVING, NOT_SERVING = 1, 2


def health_of(address: str, service: str = "") -> int:
    request = MESSAGES["grpc.health.v1.HealthCheckRequest"](service=service)
    return int(call(address, "grpc.health.v1.Health/Check", request, "grpc.health.v1.HealthCheckResponse").status)


def test_the_health_service_knows_the_protocols_own_service(server: tuple[str, str]) -> None:
    assert health_of(server[1], "inference.GRPCInferenceService") == SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health_of(server[1], "other")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_whoever_watches_the_health_is_told_of_the_stop(models: Path) -> None:
    with gated(models, grpc_port=0) as server, grpc.insecure_channel(server.grpc_address) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["grpc.health.v1.HealthCheckResponse"].FromString,
        )
        told = watch(MESSAGES["grpc.health.v1.HealthCheckRequest"](), timeout=PATIENCE_S)
        assert next(told).status == SERVING
        server.service.stop()
        assert [answer.status for answer in told] == [NOT_SERVING]


def test_more_calls_than_the_server_keeps_are_refused(models: Path) -> None:
    with gated(models, grpc_port=0, queue_size=1) as server, grpc.insecure_channel(server.grpc_address) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watches = [watch(b"", timeout=PATIENCE_S) for _ in range(2 + SPARE_CALLS)]
        assert all(next(stream) for stream in watches)
        with pytest.raises(grpc.RpcError) as refused:
            health_of(server.grpc_address)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in watches:
            stream.cancel()


def test_what_is_in_flight_when_the_server_stops_is_answered(models: Path) -> None:
    with gated(models, grpc_port=0) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        with triton_grpc(server.grpc_address) as client:
            held = callers.submit(client.infer, images=IMAGES)
            server.engine.wait_for_run()
            server.server.should_exit = True
            wait_until(lambda: server.service.stopping)
            server.engine.gate.set()
            assert held.result()["num_detections"].shape == (3,)


def test_what_is_not_finished_when_the_drain_time_is_over_is_told_so(models: Path) -> None:
    with gated(models, grpc_port=0, drain_s=0) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        with triton_grpc(server.grpc_address) as client:
            held = callers.submit(client.infer, images=IMAGES[:1])
            server.engine.wait_for_run()
            server.server.should_exit = True
            with pytest.raises(InferenceServerException, match="stopped before the answer was ready") as ended:
                held.result()
            assert ended.value.status() == "StatusCode.UNAVAILABLE"
            server.engine.gate.set()


def test_what_was_there_before_suppression_is_told_where_it_is_named(triton: Triton, models: Path) -> None:
    asked = triton.inputs({"images": IMAGES[:2], "fusion": np.array([[1, 0, 0], [0, 1, 0]], np.float32)})
    names = [*OUTPUTS, *CandidateOutput._fields]
    answer = triton.client.infer("tiny", asked, outputs=triton.outputs(names))
    session = onnxruntime.InferenceSession(models / "tiny" / "1" / "model.onnx")
    thresholds = {"score_threshold": np.full(2, 0.3, np.float32), "iou_threshold": np.full(2, 0.5, np.float32)}
    for image, fusion in enumerate(([1, 0, 0], [0, 1, 0])):
        feeds = {"images": IMAGES[image : image + 1], "fusion": np.array([fusion], np.float32)}
        given = {name: array[:1] for name, array in thresholds.items()}
        steps = {"refine_steps": np.zeros(1, np.int32)}
        wanted = session.run(list(CandidateOutput._fields), {**feeds, **given, **steps})
        for name, array in zip(CandidateOutput._fields, wanted, strict=True):
            np.testing.assert_array_equal(answer.as_numpy(name)[image], array[0])
    assert answer.as_numpy("candidate_labels").shape == (2, 200)
    assert (answer.as_numpy("candidate_labels") >= 0).any()
    assert list(triton.infer(images=IMAGES[:1])) == list(OUTPUTS)  # not among what comes unasked


def test_an_engine_that_keeps_its_candidates_to_itself_says_so(triton: Triton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibox_server.oip.inference.tells_candidates", lambda _: False)
    with pytest.raises(InferenceServerException, match="does not tell what it had before suppression"):
        triton.client.infer("tiny", triton.inputs({"images": IMAGES[:1]}), outputs=triton.outputs(["candidate_boxes"]))
