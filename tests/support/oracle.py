"""A server played by a function that knows the objects of a COCO document, for tests of the evaluation."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2

from calibox_client.evaluation.raw_scores import RawScoresClient

MANIFEST = {"nms": {"max_detections": 300}, "files": {"model.onnx": "0" * 64}}


def write_coco(root: Path, *, images: int = 12) -> dict[str, Any]:
    """A COCO document and its image files below ``root/images``; a file holds its image's id, not pixels."""
    document: dict[str, Any] = {
        "categories": [{"id": 5, "name": "red"}, {"id": 9, "name": "blue"}],
        "images": [],
        "annotations": [],
    }
    for image_id in range(1, images + 1):
        name = f"part{image_id % 2}/{image_id}.jpg"
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_text(str(image_id))
        document["images"].append({"id": image_id, "file_name": name, "width": 640, "height": 480})
        for n in range(image_id % 4):  # some images hold nothing
            side = 20.25 + 40 * n
            box = [10.5 * image_id, 7.125 + 5 * n, side, side + 1 / 3]
            label = (5, 9)[n % 2]
            document["annotations"].append(
                {"id": len(document["annotations"]), "image_id": image_id, "category_id": label, "bbox": box}
            )
    (root / "instances.json").write_text(json.dumps(document))
    return document


def objects_of(document: Mapping[str, Any], image_id: int) -> list[dict[str, Any]]:
    """The objects of an image as a server writes detections, each a little less sure than the one before."""
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    found = []
    for n, entry in enumerate(a for a in document["annotations"] if a["image_id"] == image_id):
        x, y, width, height = entry["bbox"]
        score = 0.9 - n / 7
        scores = {"score": score, "classification_score": score**0.5, "localization_score": 1 / 3}
        label = entry["category_id"]
        found.append({"box": [x, y, x + width, y + height], "label": names[label], "label_id": label, **scores})
    return found


class Oracle:
    """Answers with what ``find`` says of an image, and keeps which images were asked about, and how."""

    def __init__(self, find: Callable[[int], list[dict[str, Any]] | httpx2.Response], labels: dict[int, str]) -> None:
        self.find = find
        self.labels = labels
        self.manifest: dict[str, Any] = MANIFEST
        self.version = "3"
        self.asked: list[int] = []
        self.queries: list[dict[str, str]] = []

    def connect(self, url: str, **arguments: Any) -> RawScoresClient:
        """In place of `RawScoresClient`: the same client over this server; pauses take no time."""

        async def no_sleep(_: float) -> None:
            return None

        return RawScoresClient(url, transport=httpx2.MockTransport(self.answer), sleep=no_sleep, **arguments)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        """What the server says to a request."""
        summary = {"name": "oracle", "version": self.version, "state": "ready", "default": True}
        if request.url.path == "/v1/models":
            classes = [{"name": name, "label_id": label} for label, name in self.labels.items()]
            return httpx2.Response(200, json={"models": [{**summary, "classes": classes}]})
        if request.url.path == "/v1/models/oracle":
            versions = [{**summary, "manifest": self.manifest}]
            document = {"name": "oracle", "default_version": self.version, "versions": versions}
            return httpx2.Response(200, json=document)
        image_id = int(request.content)
        self.asked.append(image_id)
        self.queries.append(dict(request.url.params))
        found = self.find(image_id)
        if isinstance(found, httpx2.Response):
            return found
        results = [{"width": 640, "height": 480, "detections": found}]
        return httpx2.Response(200, json={"model": "oracle", "version": self.version, "results": results})


@contextmanager
def served(oracle: Oracle) -> Iterator[str]:
    """The same server behind a real socket, for other processes; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = oracle.answer(httpx2.Request(self.command, f"http://oracle.test{self.path}", content=body))
            self.send_response(reply.status_code)
            self.send_header("Content-Type", reply.headers["content-type"])
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="oracle", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
