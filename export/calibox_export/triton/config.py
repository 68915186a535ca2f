"""config.pbtxt of the models that a bundle becomes in Triton. Pure.

Triton keeps the batch out of a tensor's shape, so that the contract's ``[B]`` has no dimension left; it wants one, and
takes ``dims: [1]`` with an empty ``reshape``: clients send and get ``[B, 1]`` there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from calibox_core.graph_contract import Signature, candidate_outputs, graph_contract
from calibox_core.manifest import Manifest
from calibox_export.triton.options import Device
from calibox_export.triton.pbtxt import Message, Value, Word, map_of

QUEUE_SIZE = 128  # requests that may wait; `calibox serve` has as many places for images
TIMEOUT_US = 10_000_000  # in the queue, as `--timeout-ms`; without one Triton does not heed shorter ones of requests
_TYPES = {
    "tensor(uint8)": Word("TYPE_UINT8"),
    "tensor(int32)": Word("TYPE_INT32"),
    "tensor(float)": Word("TYPE_FP32"),
}
_KINDS = {"cpu": Word("KIND_CPU"), "gpu": Word("KIND_GPU")}
# What a request may send beside its image. Numbers are doubles, as in JSON: 0.7 is the same threshold everywhere.
SETTINGS: Mapping[str, Word] = {
    "operating_point": Word("TYPE_STRING"),
    "fusion": Word("TYPE_STRING"),
    "alpha": Word("TYPE_FP64"),
    "sigma": Word("TYPE_FP64"),
    "score_threshold": Word("TYPE_FP64"),
    "iou_threshold": Word("TYPE_FP64"),
    "max_detections": Word("TYPE_INT32"),
    "classes": Word("TYPE_STRING"),
    "refine": Word("TYPE_INT32"),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How Triton runs a model.

    On a CPU each image is a run of its own, single-threaded, and as many runs proceed side by side as there are cores,
    because batches cost more per image there. On a GPU whatever waits runs together, nobody waits for company, and half
    of the largest batch, which engines are tuned for, goes first.
    """

    device: Device
    instances: int  # runs side by side
    max_batch: int  # most images of a request, and of a run

    @property
    def preferred(self) -> tuple[int, ...]:
        """Batches that are run at once when so many images wait."""
        return (1,) if self.device == "cpu" else tuple(sorted({(self.max_batch + 1) // 2, self.max_batch}))


@dataclass(frozen=True, slots=True)
class GraphFile:
    """The file that a graph's model runs."""

    model: str  # as Triton calls it
    backend: Literal["onnxruntime", "tensorrt"]
    file: str
    sha256: str


def graph_config(manifest: Manifest, graph: GraphFile, shape: Shape) -> Message:
    """The bundle's own tensors, for clients that letterbox themselves and for the model that does it for others."""
    inputs, outputs = graph_contract(manifest)
    # All of them: TensorRT runs nothing unless each output has a place.
    outputs = {**outputs, **candidate_outputs(manifest)}
    config: dict[str, Value | Sequence[Value]] = {
        "name": graph.model,
        "backend": graph.backend,
        "default_model_filename": graph.file,
        "max_batch_size": shape.max_batch,
        "input": [_tensor(name, *facts) for name, facts in inputs.items()],
        "output": [_tensor(name, *facts) for name, facts in outputs.items()],
        "instance_group": [{"count": shape.instances, "kind": _KINDS[shape.device]}],
        "dynamic_batching": {"preferred_batch_size": list(shape.preferred), "default_queue_policy": _queue()},
        "model_warmup": [_warm_up(inputs, size) for size in sorted({1, *shape.preferred})],
    }
    if graph.backend == "onnxruntime" and shape.device == "cpu":
        config["parameters"] = _strings({"intra_op_thread_count": "1", "inter_op_thread_count": "1"})
    elif graph.backend == "onnxruntime":
        # TF32 keeps 10 bits of the factors: then kept boxes would not be those of other engines.
        cuda: Message = {"name": "cuda", "parameters": map_of({"use_tf32": "0"})}
        config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [cuda]}}
    return config


def detect_config(manifest: Manifest, graph: GraphFile, shape: Shape, *, name: str) -> Message:
    """Encoded images to detections, around a graph; the work is `calibox_server.triton`'s.

    Every input has a row per image of the request, and so has every output; only the first input must be sent.
    """
    rows = manifest.nms.max_detections
    scores = ("scores", "classification_scores", "localization_scores")
    outputs = {
        "answer": (Word("TYPE_STRING"), [1]),
        "image_size": (Word("TYPE_INT32"), [2]),
        "num_detections": (Word("TYPE_INT32"), [1]),
        "boxes": (Word("TYPE_FP32"), [rows, 4]),
        "labels": (Word("TYPE_INT32"), [rows]),
        **{name: (Word("TYPE_FP32"), [rows]) for name in scores},
    }
    about = {
        "graph": graph.model,
        "graph_version": manifest.version,
        "graph_file": graph.file,
        "graph_sha256": graph.sha256,
    }
    settings: list[Value] = [
        {"name": setting, "data_type": kind, "dims": [1], "optional": True} for setting, kind in SETTINGS.items()
    ]
    batching: dict[str, Value | Sequence[Value]] = {"default_queue_policy": _queue()}
    if shape.device == "cpu":
        batching["preferred_batch_size"] = list(shape.preferred)
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": shape.max_batch,
        "input": [{"name": "image", "data_type": Word("TYPE_STRING"), "dims": [1]}, *settings],
        "output": [{"name": name, "data_type": kind, "dims": dims} for name, (kind, dims) in outputs.items()],
        # One more than run the graph: it decodes meanwhile.
        "instance_group": [{"count": shape.instances + 1, "kind": _KINDS["cpu"]}],
        "dynamic_batching": batching,
        "parameters": _strings(about),
    }


def _tensor(name: str, kind: str, shape: tuple[int | None, ...]) -> Message:
    dims = [size for size in shape[1:] if size is not None]
    described: Message = {"name": name, "data_type": _TYPES[kind], "dims": dims or [1]}
    return described if dims else {**described, "reshape": {}}


def _queue() -> Message:
    """Refuses at the door once it is full, and whoever waited too long; a request may ask for less time."""
    return {
        "default_timeout_microseconds": TIMEOUT_US,
        "allow_timeout_override": True,
        "max_queue_size": QUEUE_SIZE,
    }


def _warm_up(inputs: Signature, size: int) -> Message:
    """A batch that asks for all there is: exponents and thresholds of 0 keep every candidate."""
    samples: dict[str, Value] = {}
    for name, (kind, shape) in inputs.items():
        dims = [one for one in shape[1:] if one is not None] or [1]
        filled: Message = {"random_data": True} if name == "images" else {"zero_data": True}
        samples[name] = {"data_type": _TYPES[kind], "dims": dims, **filled}
    return {"name": f"batch of {size}", "batch_size": size, "inputs": map_of(samples)}


def _strings(values: Mapping[str, str]) -> list[Message]:
    return map_of({key: {"string_value": value} for key, value in values.items()})
