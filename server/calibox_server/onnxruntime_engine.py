"""ONNX Runtime on the CPU: one session whose runs proceed side by side, each in its caller's thread."""

from collections.abc import Mapping
from typing import Any

from calibox_core.bundle import Bundle
from calibox_core.errors import BundleError
from calibox_core.manifest import Manifest
from calibox_server.engine import EngineInput, EngineOutput

# Batches gain nothing on CPUs, and threads inside a run cost: a 384 x 512 detector of 6 M parameters took 55 ms of CPU
# per image alone, 55 to 57 ms in batches of 4 and 8, and 62 ms with two threads (two cores, ONNX Runtime 1.31). So the
# default is as many single-threaded runs of one image as there are cores.
CPU_MAX_BATCH = 1

_Signature = Mapping[str, tuple[str, tuple[int | None, ...]]]


class OnnxRuntimeEngine:
    """Runs a bundle's ONNX file as it is.

    Args:
        bundle: its graph is compared with its manifest before anything runs.
        instances: runs side by side. They share one session, hence one copy of the weights.
        intra_op_threads: threads inside each run.
        max_batch: most images in one run; None for one.

    Raises:
        BundleError: the graph does not follow the graph contract.
    """

    def __init__(
        self, bundle: Bundle, *, instances: int = 1, intra_op_threads: int = 1, max_batch: int | None = None
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1  # detectors are one long chain; nothing to run beside it
        # Waiting threads that spin take the cores that decode and serve.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; warnings are about graph details that no operator can change
        try:
            self._session = ort.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own types vary from version to version
            raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {bundle.model_path}: {error}") from error
        check_contract(
            {i.name: _signature(i) for i in self._session.get_inputs()},
            {o.name: _signature(o) for o in self._session.get_outputs()},
            bundle.manifest,
        )
        self.name = f"onnxruntime {ort.__version__} (CPU)"
        self.max_batch = max_batch or CPU_MAX_BATCH
        self.instances = self.in_flight = instances

    def run(self, batch: EngineInput) -> EngineOutput:
        """Detections of one batch."""
        feeds = {
            "images": batch.images,
            "fusion": batch.fusion,
            "score_threshold": batch.score_threshold,
            "iou_threshold": batch.iou_threshold,
            "refine_steps": batch.refine_steps,
        }
        return EngineOutput(*self._session.run(EngineOutput._fields, feeds))


def check_contract(inputs: _Signature, outputs: _Signature, manifest: Manifest) -> None:
    """Compares names, types and shapes of a graph with the graph contract and the bundle's manifest.

    Args:
        inputs, outputs: name to (element type as ONNX Runtime writes it, shape with None where it is free).
        manifest: says sizes.

    Raises:
        BundleError: one sentence with every difference.
    """
    rows = manifest.nms.max_detections
    expected_inputs: _Signature = {
        "images": ("tensor(uint8)", (None, manifest.input.height, manifest.input.width, 3)),
        "fusion": ("tensor(float)", (None, 3)),
        "score_threshold": ("tensor(float)", (None,)),
        "iou_threshold": ("tensor(float)", (None,)),
        "refine_steps": ("tensor(int32)", (None,)),
    }
    expected_outputs: _Signature = {
        "num_detections": ("tensor(int32)", (None,)),
        "boxes": ("tensor(float)", (None, rows, 4)),
        "labels": ("tensor(int32)", (None, rows)),
        "classification_scores": ("tensor(float)", (None, rows)),
        "localization_scores": ("tensor(float)", (None, rows)),
        "scores": ("tensor(float)", (None, rows)),
    }
    wrong = [*_differences("input", expected_inputs, inputs), *_differences("output", expected_outputs, outputs)]
    wrong += [f"input {name} is unknown" for name in sorted(set(inputs) - set(expected_inputs))]
    if wrong:
        raise BundleError(
            f"the graph of {manifest.name}/{manifest.version} does not follow the graph contract: {'; '.join(wrong)}; "
            "export the bundle again with this version of calibox"
        )


def _differences(what: str, expected: _Signature, found: _Signature) -> list[str]:
    wrong = []
    for name, (kind, shape) in expected.items():
        if name not in found:
            wrong.append(f"{what} {name} is missing")
            continue
        found_kind, found_shape = found[name]
        # A size that the graph leaves free is fine; the batch must be free.
        fits = len(found_shape) == len(shape) and found_shape[0] is None
        fits = fits and all(f in (None, s) for f, s in zip(found_shape[1:], shape[1:], strict=True))
        if found_kind != kind or not fits:
            wrong.append(f"{what} {name} is {_shown(found_kind, found_shape)}, expected {_shown(kind, shape)}")
    return wrong


def _signature(node: Any) -> tuple[str, tuple[int | None, ...]]:
    return node.type, tuple(size if isinstance(size, int) else None for size in node.shape)


def _shown(kind: str, shape: tuple[int | None, ...]) -> str:
    return f"{kind} [{', '.join('B' if i == 0 and s is None else str(s or '?') for i, s in enumerate(shape))}]"
