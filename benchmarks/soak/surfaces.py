"""One request for each way to ask: raw pictures of every format, multipart, JSON, tensors."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.soak.connection import Request, post
from benchmarks.soak.pictures import DETECT, variants
from calibox_core.bundle import Bundle
from calibox_core.letterbox import letterbox_into
from calibox_server.oip.http_body import LENGTH_HEADER
from tests.support.pictures import encoded

BOUNDARY = "a-boundary"


def encodings(picture: Image.Image) -> dict[str, bytes]:
    """A picture in the formats, and in forms of them, whose readers differ."""
    small = picture.resize((picture.width // 2, picture.height // 2))
    return {
        "jpeg": encoded(picture, "JPEG"),
        "progressive jpeg": encoded(picture, "JPEG", progressive=True),
        "cmyk jpeg": encoded(picture.convert("CMYK"), "JPEG"),
        "grey jpeg": encoded(picture.convert("L"), "JPEG"),
        "png": encoded(small, "PNG"),
        "palette png": encoded(small.quantize(32), "PNG"),
        "alpha png": encoded(small.convert("RGBA"), "PNG"),
        "16-bit png": encoded(Image.fromarray(np.asarray(small.convert("L"), np.uint16) * 257), "PNG"),
        "webp": encoded(picture, "WEBP"),
        "lossless webp": encoded(small, "WEBP", lossless=True),
        "animated webp": encoded(small, "WEBP", save_all=True, append_images=[small.rotate(90)]),
        "bmp": encoded(small, "BMP"),
        "tiff": encoded(small, "TIFF"),
        "deflated tiff": encoded(small, "TIFF", compression="tiff_adobe_deflate"),
        "lzw tiff": encoded(small, "TIFF", compression="tiff_lzw"),
        "gif": encoded(small.quantize(32), "GIF"),
        "animated gif": encoded(small, "GIF", save_all=True, append_images=[small.rotate(90)]),
    }


def multipart(files: Sequence[bytes], fields: dict[str, str]) -> Request:
    """Pictures and parameters as a form."""
    parts = [f'Content-Disposition: form-data; name="{k}"\r\n\r\n{v}'.encode() for k, v in fields.items()]
    for number, data in enumerate(files):
        head = (
            f'Content-Disposition: form-data; name="file"; filename="{number}.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        )
        parts.append(head.encode() + data)
    body = b"".join(f"--{BOUNDARY}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()
    return post(DETECT, body, f"multipart/form-data; boundary={BOUNDARY}")


def as_json(files: Sequence[bytes], **parameters: Any) -> Request:
    """Pictures in base64."""
    document = {"images": [base64.b64encode(data).decode() for data in files], **parameters}
    return post(DETECT, json.dumps(document).encode(), "application/json")


def tensors(bundle: Bundle, picture: Image.Image, *, binary: bool = True) -> Request:
    """A letterboxed picture as the Open Inference Protocol takes it."""
    size = bundle.manifest.input
    array = np.empty((1, size.height, size.width, 3), np.uint8)
    letterbox_into(array[0], np.asarray(picture.convert("RGB")), pad_value=size.pad_value)
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": list(array.shape)}
    tensor |= {"parameters": {"binary_data_size": array.nbytes}} if binary else {"data": array.ravel().tolist()}
    head = json.dumps({"id": "1", "inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()
    path = f"/v2/models/{bundle.manifest.name}/infer"
    if not binary:
        return post(path, head, "application/json")
    return post(path, head + array.tobytes(), "application/octet-stream", f"{LENGTH_HEADER}: {len(head)}")


def surfaces(bundle: Bundle) -> dict[str, Request]:
    """By name; all are answered with 200."""
    one, two = variants(bundle, 2)
    pictures = encodings(one)
    jpeg = pictures["jpeg"]
    return {
        **{name: post(DETECT, data, "application/octet-stream") for name, data in pictures.items()},
        "query": post(f"{DETECT}?score_threshold=0.2&fusion=power&alpha=0.7&max_detections=7", jpeg),
        "multipart": multipart(
            [jpeg, encoded(two, "JPEG")], {"score_threshold": "0.2", "classes": bundle.manifest.label_names[0]}
        ),
        "json": as_json([jpeg, encoded(two, "PNG")], iou_threshold=0.4),
        "tiles": post(f"{DETECT}?tile=64&overlap=0.2", encoded(one.resize((150, 110)), "JPEG")),
        "tensors": tensors(bundle, one),
    }
