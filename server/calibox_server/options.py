"""What the server can be told, each thing once: option of `calibox serve`, variable `CALIBOX_<NAME>`, documentation.

Needs only the base install, so that `calibox serve` can say in a sentence which extra is missing.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

ENV_PREFIX = "CALIBOX_"
CudaDriverName = Literal["auto", "cuda-bindings", "pycuda"]
MAX_TIMEOUT_MS = 600_000  # ten minutes: beyond this a caller is better served by asking again


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _joined(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


CommaList = Annotated[str, BeforeValidator(_joined)]  # in a file also a list


def items(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated text, without spaces around them and without empty ones."""
    return tuple(part for part in map(str.strip, text.split(",")) if part)


class RequestOptions(BaseModel):
    """Where the server is reached, and what it takes from a request. The first half of `Options`."""

    config: Path | None = Field(
        default=None,
        description="TOML file with settings, named as here with underscores; options and variables go before it.",
    )

    models: Path = Field(
        default=Path("models"),
        description="Folder of bundles, <name>/<version>/; one model's or one version's folder also works.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 to be reached from elsewhere.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port for the Open Inference Protocol over gRPC; 0 takes a free one. Default: no gRPC. Needs the "
        "extra `grpc`.",
    )
    http_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that speak HTTP and decode, in front of one that runs the models; 1 is a single process "
        "that does all. For when one Python process is the limit; Linux.",
    )
    stream_frames: int = Field(
        default=2,
        ge=1,
        le=1024,
        description="Frames of one WebSocket stream that are worked on at once. As many more wait; beyond, the oldest "
        "waiting one is dropped.",
    )
    # 20 MiB: a 50-megapixel JPEG of usual quality is 10 to 20 MB.
    max_bytes: int = Field(default=20 * 2**20, ge=1, description="Longest request body, in bytes.")
    # 50 megapixels decode to 150 MB of RGB; the largest phone pictures have 48 to 50 outside of special modes.
    max_pixels: int = Field(default=50_000_000, ge=1, description="Most pixels of one image, told from its header.")
    max_images: int = Field(default=32, ge=1, description="Most images in one request.")
    # The longest query that makes sense, a list of 80 class names, is 1 KB; proxies commonly read 8 KB.
    max_url_bytes: int = Field(default=8192, ge=64, description="Longest path and query, in bytes (414).")
    max_header_bytes: int = Field(
        default=32 * 2**10, ge=1024, description="Longest headers of a request, together, in bytes (431)."
    )
    max_headers: int = Field(default=100, ge=8, description="Most headers of a request (431).")
    max_connections: int = Field(
        default=4096, ge=1, description="Most connections that are open at once; the next is told 503."
    )
    # A phone on a poor mobile network sends its headers within a few seconds.
    slow_grace_s: float = Field(
        default=15.0, ge=0.1, description="Seconds in which a request's headers must come, and that a body may take."
    )
    # A picture of 2 MB over the 64 kbit/s of a throttled phone would take four minutes: nobody waits for it.
    min_upload_rate: int = Field(
        default=8192,
        ge=0,
        description="Bytes per second at which a body must come once slow_grace_s is over (408); 0: any rate.",
    )
    queue_size: int = Field(
        default=128,
        ge=1,
        description="Images per model that may be decoding, waiting or running at once; the next is refused (429).",
    )
    reserved_places: int = Field(
        default=0, ge=0, description="Of queue_size, places that only requests of high priority may take."
    )
    # 101 for a phone's 12 megapixels at an input of 512 x 384 and a fifth of overlap; each takes a place in the queue.
    max_tiles: int = Field(
        default=128, ge=1, description="Most parts, the whole included, that one image may be cut into on request."
    )
    fetch_hosts: CommaList = Field(
        default="",
        description="Hosts that images may be fetched from where a request names an address, comma-separated: "
        "images.example.com, *.example.com for all below it, with http:// or :port where it must be. Default: none.",
    )
    fetch_max_bytes: int = Field(default=20 * 2**20, ge=1, description="Longest image that is fetched, in bytes.")
    fetch_timeout_s: float = Field(
        default=5.0, gt=0, description="Seconds that fetching one image may take, with every redirect."
    )
    fetch_redirects: int = Field(default=3, ge=0, le=20, description="Most redirects of one address.")
    fetch_at_once: int = Field(
        default=8, ge=1, le=1024, description="Images that are fetched at once; further ones wait for their turn."
    )


class Options(RequestOptions):
    """The fields of `Settings`. A field with ``repr=False`` is secret and never shown."""

    versions: CommaList = Field(
        default="all",
        description="Which versions of each model are served: all, latest, latest:N, or numbers such as 3,5.",
    )
    admin: bool = Field(
        default=False,
        description="Models may be loaded, reloaded and unloaded over HTTP, by whoever may ask the server.",
    )
    watch_s: float | None = Field(
        default=None,
        ge=0.1,
        description="Look at the folder of models every so many seconds, and load, reload or unload what changed.",
    )
    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"] = Field(
        default="auto",
        description="What runs the models. auto: the fastest of the ONNX file and the engines that `calibox build` "
        "made, measured at the first start.",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = Field(
        default="auto", description="Of what may be used; the ONNX file is fp32, unless `calibox quantize` made it."
    )
    onnxruntime_provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        default="auto", description="What ONNX Runtime runs on. auto: CUDA where the installed package has it."
    )
    cuda_driver: CudaDriverName = Field(
        default="auto", description="Package that reaches CUDA for TensorRT. auto: cuda-bindings, or else pycuda."
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
        default=None,
        ge=1,
        le=1024,
        description="Runs of the engine side by side. Default: cores / intra_op_threads; on a GPU one.",
    )
    tune: bool = Field(
        default=True,
        description="At the first start of a model on the CPU, measure how many runs side by side, threads in each, "
        "images per batch and threads of a lone run are quickest, where these are not set; kept for later starts.",
    )
    tune_s: float = Field(
        default=3.0, gt=0, le=3600, description="Most seconds that one start spends on that, all models together."
    )
    intra_op_threads: int = Field(default=1, ge=1, le=1024, description="Threads inside one run of the CPU engine.")
    lone_threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Threads inside a run of ONNX Runtime on the CPU that goes on alone; 1: as always. Default: all "
        "cores, where that is measured to be quicker.",
    )
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
    # Several times what a request may wait by default, and what the event loop of a process stalls on a busy machine.
    hang_s: float = Field(
        default=60.0,
        ge=0.1,
        description="With several HTTP workers: seconds without a sign of life, or within one run of an engine, after "
        "which a process is killed and started again.",
    )
    # Load balancers commonly keep idle connections for 60 s; a server that closes first makes them fail now and then.
    keep_alive_s: int = Field(default=65, ge=0, description="Seconds that an idle connection stays open.")
    api_keys_file: Path | None = Field(
        default=None,
        description="File of the keys that may ask: lines name:hash, made by `calibox api-key`. Without keys all may.",
    )
    api_keys: CommaList = Field(
        default="", repr=False, description="The same keys, comma-separated; in addition to the file."
    )
    rate_requests: float | None = Field(
        default=None,
        gt=0,
        description="Requests per second of one key, or of one address where there are no keys (429). Default: any.",
    )
    rate_images: float | None = Field(
        default=None, gt=0, description="Images per second of one key or address (429). Default: any."
    )
    rate_burst_s: float = Field(
        default=2.0, gt=0, description="A caller that was quiet may send at once what it may send in so many seconds."
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of the certificate (and its chain): HTTPS instead of HTTP."
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file of the certificate's key. Default: in the same file."
    )
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file of authorities; callers need a certificate that one of them signed."
    )
    cors_origins: CommaList = Field(
        default="", description="Origins whose pages may ask, such as https://app.example, comma-separated; * is any."
    )
    trusted_proxies: CommaList = Field(
        default="",
        description="Addresses or networks of proxies whose X-Forwarded-For is believed, comma-separated; * is any.",
    )
    score_histograms: bool = Field(
        default=True, description="Count the scores of all detections, per model and class, for /metrics."
    )
    otel: bool = Field(
        default=False,
        description="Send OpenTelemetry traces, as the variables OTEL_* say; needs the extra `otel`.",
    )
    page: bool = Field(default=True, description="Serve the page at /, where a picture and its boxes can be looked at.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged; info has a line for each request."
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
