"""What the server can be told, each thing once: option of `calibox serve`, variable `CALIBOX_<NAME>`, documentation.

Needs only the base install, so that `calibox serve` can say in a sentence which extra is missing.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

ENV_PREFIX = "CALIBOX_"
MAX_TIMEOUT_MS = 600_000  # ten minutes: beyond this a caller is better served by asking again


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Options(BaseModel):
    """The fields of `Settings`."""

    models: Path = Field(
        default=Path("models"),
        description="Folder of bundles, <name>/<version>/; one model's or one version's folder also works.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 to be reached from elsewhere.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    # 20 MiB: a 50-megapixel JPEG of usual quality is 10 to 20 MB.
    max_bytes: int = Field(default=20 * 2**20, ge=1, description="Longest request body, in bytes.")
    # 50 megapixels decode to 150 MB of RGB; the largest phone pictures have 48 to 50 outside of special modes.
    max_pixels: int = Field(default=50_000_000, ge=1, description="Most pixels of one image, told from its header.")
    max_images: int = Field(default=32, ge=1, description="Most images in one request.")
    queue_size: int = Field(
        default=128,
        ge=1,
        description="Images per model that may be decoding, waiting or running at once; the next is refused (429).",
    )
    engine: Literal["auto", "onnxruntime", "openvino"] = Field(
        default="auto",
        description="What runs the models. auto: the fastest of the ONNX file and the engines that `calibox build` "
        "made, measured at the first start.",
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        default="auto", description="Of built engines that may be used; the ONNX file is fp32."
    )
    engine_fallback: bool = Field(
        default=True, description="Serve the ONNX file where the engine that was asked for cannot be used here."
    )
    max_batch: int | None = Field(
        default=None, ge=1, le=1024, description="Most images in one run of the engine. Default: the engine's choice."
    )
    max_delay_ms: float = Field(
        default=2.0,
        ge=0,
        le=1000,
        description="While all instances are busy, the longest a batch gathers before it is handed to an engine that "
        "keeps batches ready. An idle engine never waits.",
    )
    instances: int | None = Field(
        default=None, ge=1, le=1024, description="Runs of the engine side by side. Default: cores / intra_op_threads."
    )
    intra_op_threads: int = Field(default=1, ge=1, le=1024, description="Threads inside one run of the CPU engine.")
    decode_threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads that decode and letterbox images. Default: one per core."
    )
    timeout_ms: float = Field(
        default=10_000,
        ge=1,
        le=MAX_TIMEOUT_MS,
        description="Time for requests that name none, in ms, from the end of their body.",
    )
    drain_s: int = Field(
        default=30, ge=0, description="At SIGTERM, the longest that requests in flight may take to finish, in seconds."
    )
    # Load balancers commonly keep idle connections for 60 s; a server that closes first makes them fail now and then.
    keep_alive_s: int = Field(default=65, ge=0, description="Seconds that an idle connection stays open.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged."
    )
    log_format: Literal["console", "json"] = Field(default="console", description="Form of the log lines on stderr.")

    @property
    def engine_instances(self) -> int:
        """Runs side by side, worked out where the setting leaves it open."""
        return self.instances or max(1, available_cores() // self.intra_op_threads)

    @property
    def decoders(self) -> int:
        """Decode threads, worked out where the setting leaves it open."""
        return self.decode_threads or available_cores()
