"""The OpenAPI document: whole, and true of what the server answers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest

from calibox_server.keys import make_key
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(), "JPEG")
KEY, LINE = make_key("ci.bot")
INPUT = {"name": "images", "datatype": "UINT8", "shape": [0, 96, 128, 3], "data": []}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    root = tmp_path_factory.mktemp("models")
    make_tiny_bundle(root)
    (make_tiny_bundle(root, name="broken") / "model.onnx").write_bytes(b"broken")
    with live_server(root, admin=True) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: httpx2.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_every_address_is_in_the_document(document: dict[str, Any]) -> None:
    triton = [f"/v2/repository/{name}" for name in ("index", "models/{name}/load", "models/{name}/unload")]
    model = [f"/v2/models/{{model}}{v}{e}" for v in ("", "/versions/{version}") for e in ("", "/ready", "/infer")]
    changes = [f"/v1/models/{{name}}/{verb}" for verb in ("load", "reload", "unload")]
    assert set(document["paths"]) == {
        *("/v1/detect", "/v1/models", "/v1/models/{name}", "/v1/models/{name}/example", "/v1/stream", *changes),
        *("/livez", "/readyz", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready", *model, *triton),
    }
    assert "WebSocket" in document["info"]["description"]
    assert "HTTPValidationError" not in str(document)


def test_what_every_request_may_meet_is_documented_everywhere(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        is_open = path in ("/livez", "/readyz") or path.startswith("/v2/health/")
        for operation in methods.values():
            assert operation["responses"].keys() >= {"400", "408", "414", "431", "500", "503"}, path
            assert ({"401", "429"} <= operation["responses"].keys()) is not is_open, path


def check(document: dict[str, Any], path: str, answer: httpx2.Response) -> None:
    """The status, the content type and the document of an answer are those of its operation."""
    responses = document["paths"][path][answer.request.method.lower()]["responses"]
    assert str(answer.status_code) in responses, (path, answer.text)
    kind = answer.headers.get("Content-Type", "").partition(";")[0]
    content = responses[str(answer.status_code)].get("content", {})
    assert (kind in content) if answer.content else not content, (path, kind)
    if kind.endswith("json"):
        jsonschema_rs.validate(content[kind]["schema"], answer.json())


def test_answers_are_as_the_document_says(client: httpx2.Client, document: dict[str, Any]) -> None:
    infer = "/v2/models/{model}/infer"
    for method, path, body in (
        *(("GET", path, None) for path, methods in document["paths"].items() if "get" in methods),
        ("POST", "/v1/detect", JPEG),
        ("POST", "/v1/detect", b"no picture"),
        ("POST", "/v1/detect", {"url": "https://images.example.com/a.jpg"}),
        ("POST", infer, {"inputs": [INPUT]}),
        ("POST", infer, {"inputs": [{**INPUT, "name": "pictures"}]}),
        ("POST", infer, {"inputs": [INPUT], "parameters": {"priority": 7}}),
        ("POST", "/v2/repository/index", {"ready": False}),
        ("POST", "/v2/repository/index", b"no JSON"),
        ("POST", "/v1/models/{name}/load", None),
        ("POST", "/v2/repository/models/{name}/load", None),
    ):
        for name in ("tiny", "broken", "nothing"):
            filled = re.sub(r"\{(?:name|model)\}", name, path).replace("{version}", "1")
            sent = {"json": body} if isinstance(body, dict) else {"content": body}
            check(document, path, client.request(method, filled, **sent))  # type: ignore[arg-type]
            if filled == path:
                break


def test_other_methods_are_refused_with_those_that_are_allowed(client: httpx2.Client, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        filled = re.sub(r"\{(?:name|model)\}", "tiny", path).replace("{version}", "1")
        for method in {"DELETE", "TRACE"} - {name.upper() for name in methods}:
            answer = client.request(method, filled)
            assert answer.status_code == 405, (method, path)
            allowed = {name.strip() for name in answer.headers["Allow"].split(",")}
            assert {name.upper() for name in methods} <= allowed, path


def test_a_plain_request_to_the_stream_is_told_to_upgrade(client: httpx2.Client) -> None:
    answer = client.get("/v1/stream")
    assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")
    assert (answer.headers["Upgrade"], answer.headers["Connection"].lower()) == ("websocket", "upgrade")


def test_keys_are_in_the_document_where_they_are_asked_for(document: dict[str, Any], tmp_path: Path) -> None:
    assert "securitySchemes" not in document.get("components", {})
    make_tiny_bundle(tmp_path)
    with live_server(tmp_path, api_keys=LINE) as url:
        found = httpx2.get(f"{url}/openapi.json", headers={"X-API-Key": KEY}).json()
    assert found["components"]["securitySchemes"].keys() == {"bearer", "header"}
    assert found["paths"]["/v1/detect"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert "security" not in found["paths"]["/livez"]["get"]


def test_the_pages_about_the_api_name_no_other_host(client: httpx2.Client) -> None:
    for page in ("/docs", "/redoc"):
        answer = client.get(page)
        assert answer.status_code == 200
        assert "//" not in answer.text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        for file in re.findall(r'(?:href|src)="(reference/[^"]+)"', answer.text):
            found = client.get(f"/{file}")
            assert found.status_code == 200
            again = client.get(f"/{file}", headers={"If-None-Match": found.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
    assert client.get("/reference/nothing.js").json()["code"] == "not_found"
