"""Keys, rates and TLS hold for gRPC as they hold for HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.grpc
import trustme
from tritonclient.utils import InferenceServerException

from calibox_core.errors import CaliboxError
from calibox_server.keys import make_key
from calibox_server.listener import bind
from calibox_server.serve import Server
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import metric
from tests.support.live_server import grpc_address, running, server_url
from tests.support.oip import Triton, triton_grpc, triton_http

IMAGE = np.zeros((1, 96, 128, 3), np.uint8)


@contextmanager
def serving(models: Path, **settings: Any) -> Iterator[Server]:
    with running(Service.load(Settings(models=models, grpc_port=0, log_level="warning", **settings))) as server:
        yield server


def test_a_key_is_asked_for_and_the_health_is_open(models: Path) -> None:
    key, line = make_key("robot")
    with serving(models, api_keys=line) as server, triton_grpc(grpc_address(server)) as triton:
        assert triton.client.is_server_live()
        assert triton.client.is_server_ready()
        inputs = triton.inputs({"images": IMAGE})
        for headers in ({}, {"authorization": "Bearer wrong"}):
            with pytest.raises(InferenceServerException, match="key") as refused:
                triton.client.infer("tiny", inputs, headers=headers)
            assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        with pytest.raises(InferenceServerException, match="key"):
            triton.client.get_model_metadata("tiny")
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            answer = triton.client.infer("tiny", inputs, headers=headers)
            assert answer.as_numpy("num_detections").shape == (1,)
        with triton_http(server_url(server).removeprefix("http://")) as over_http:
            with pytest.raises(InferenceServerException, match="this server asks for a key; send it as") as refused:
                over_http.infer(images=IMAGE)
            assert refused.value.status() == "401"
            inputs = over_http.inputs({"images": IMAGE})
            answer = over_http.client.infer("tiny", inputs, headers={"Authorization": f"Bearer {key}"})
            assert answer.as_numpy("num_detections").shape == (1,)
        with httpx2.Client(base_url=server_url(server), timeout=PATIENCE_S, headers={"X-API-Key": key}) as client:
            assert metric(client, "calibox_requests_total", code="unauthorized") == 4


def test_images_over_grpc_and_http_are_counted_together(models: Path) -> None:
    # Two at once, then one in a thousand seconds.
    with serving(models, rate_images=0.001, rate_burst_s=2000) as server, triton_grpc(grpc_address(server)) as triton:
        triton.infer(images=IMAGE)
        with httpx2.Client(base_url=server_url(server), timeout=PATIENCE_S) as client:
            body = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": IMAGE.shape, "data": IMAGE.tolist()}]}
            assert client.post("/v2/models/tiny/infer", json=body).status_code == 200
            assert client.post("/v2/models/tiny/infer", json=body).status_code == 429
        with pytest.raises(InferenceServerException, match="more images per second") as refused:
            triton.infer(images=IMAGE)
        assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("in_one_file", [True, False])
def test_grpc_speaks_tls_where_http_does(models: Path, tmp_path: Path, in_one_file: bool) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = {name: tmp_path / f"{name}.pem" for name in ("both", "certificate", "key", "ca")}
    issued.private_key_and_cert_chain_pem.write_to_path(files["both"])
    issued.cert_chain_pems[0].write_to_path(files["certificate"])
    issued.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    tls = (
        {"tls_certificate": files["both"]}
        if in_one_file
        else {"tls_certificate": files["certificate"], "tls_key": files["key"]}
    )
    with serving(models, **tls) as server:
        options = {"ssl": True, "root_certificates": str(files["ca"])}
        triton = Triton(tritonclient.grpc, grpc_address(server), **options)
        assert triton.infer(images=IMAGE)["boxes"].shape == (1, 50, 4)
        triton.client.close()


def test_a_port_that_is_taken_is_said_before_models_are_loaded() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            CaliboxError, match=f"port {port} .*choose another port with --grpc-port or CALIBOX_GRPC_PORT"
        ):
            bind("127.0.0.1", port, "grpc_port")
