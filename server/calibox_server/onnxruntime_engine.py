"""ONNX Runtime: one session whose runs proceed side by side, each in its caller's thread."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.bundle import MODEL_FILE, Bundle
from calibox_core.cpu import INT8_PRODUCTS, has_int8_products
from calibox_core.engines import BuiltEngine, EngineError
from calibox_core.errors import BundleError
from calibox_core.graph_contract import Signature, graph_contract
from calibox_core.manifest import Manifest
from calibox_server.engine import CandidateOutput, EngineInput, EngineOutput, FetchedByName, example_batch
from calibox_server.onnxruntime_provider import ProviderName, bucket_sizes, check_placed, placement


class OnnxRuntimeEngine(FetchedByName):
    """Runs a bundle's ONNX file as it is, or one that `calibox build` made of it.

    Args:
        bundle: the graph is compared with its manifest before anything runs.
        built: what runs in place of the bundle's own file.
        provider: on what.
        instances: runs side by side. They share one session, hence one copy of the weights.
        intra_op_threads: threads inside each run on the CPU.
        lone_threads: threads inside a run on the CPU that goes on alone; it gets a session of its own where these are
            more than ``intra_op_threads``.
        max_batch: most images in one run; None for the provider's default.

    Raises:
        BundleError: the graph does not follow the graph contract.
        EngineError: the installed ONNX Runtime, or this machine, lacks what is needed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        built: BuiltEngine | None = None,
        provider: ProviderName = "cpu",
        instances: int = 1,
        intra_op_threads: int = 1,
        lone_threads: int = 0,
        max_batch: int | None = None,
    ) -> None:
        import onnxruntime as ort

        place = placement(provider, ort.get_available_providers(), bundle.manifest, max_batch)
        if built is not None:
            check_needs(built, [name for name, _ in place.providers])
        path = bundle.model_path if built is None else built.folder / MODEL_FILE
        self._open = partial(_open, path, place.providers)
        self._session = self._open(intra_op_threads)
        self._lone: Any = None  # the session of runs that go on alone
        self.lone_threads = 0
        self._manifest = bundle.manifest
        check_placed(place, self._session.get_providers())
        check_contract(
            {i.name: _signature(i) for i in self._session.get_inputs()},
            {o.name: _signature(o) for o in self._session.get_outputs()},
            bundle.manifest,
        )
        there = {output.name for output in self._session.get_outputs()}
        self.tells_candidates = there.issuperset(CandidateOutput._fields)
        precision = bundle.manifest.precision if built is None else built.record.precision
        shown = "" if precision == "fp32" else f" {precision}"
        self.name = f"onnxruntime {ort.__version__}{shown} ({place.title})"
        self.on_cpu = not place.buckets
        self.max_batch = place.max_batch
        self.instances = self.in_flight = instances
        self._buckets = bucket_sizes(self.max_batch) if place.buckets else ()
        for size in self._buckets:
            self.run(example_batch(bundle.manifest, size))
        if self.on_cpu and lone_threads > intra_op_threads:
            self.open_lone(lone_threads)

    def open_lone(self, threads: int) -> None:
        """As `LoneEngine.open_lone`.

        Raises:
            BundleError: the file cannot be loaded any more.
        """
        self._lone, self.lone_threads = self._open(threads), threads
        self.run_alone(example_batch(self._manifest, 1))

    def close_lone(self) -> None:
        """As `LoneEngine.close_lone`."""
        self._lone, self.lone_threads = None, 0

    def run_alone(self, batch: EngineInput) -> EngineOutput:
        """As `LoneEngine.run_alone`."""
        return EngineOutput(*self._lone.run(EngineOutput._fields, _feeds(batch)))

    def _fetch(self, batch: EngineInput, names: Sequence[str]) -> list[NDArray[Any]]:
        count = len(batch.images)
        feeds = _feeds(batch)
        if count not in self._buckets and self._buckets:
            feeds = _filled_up(feeds, next(size for size in self._buckets if size > count))
        return [array[:count] for array in self._session.run(names, feeds)]


def _open(path: Path, providers: Sequence[Any], threads: int) -> Any:
    """A session whose runs have so many threads each."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # detectors are one long chain; nothing to run beside it
    # Waiting threads that spin take the cores that decode and serve.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; warnings are about graph details that no operator can change
    try:
        return ort.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # the runtime's own types vary from version to version
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}") from error


def _feeds(batch: EngineInput) -> dict[str, NDArray[Any]]:
    return {field.name: getattr(batch, field.name) for field in fields(batch)}


def _filled_up(feeds: dict[str, NDArray[Any]], size: int) -> dict[str, NDArray[Any]]:
    """With the last row again until there are ``size``."""
    return {name: array[np.minimum(np.arange(size), len(array) - 1)] for name, array in feeds.items()}


def check_needs(built: BuiltEngine, providers: list[str]) -> None:
    """Whether ONNX Runtime on these providers can run a built file as it was meant.

    Raises:
        EngineError: it cannot.
    """
    here = [*providers, *([INT8_PRODUCTS] if has_int8_products() else [])]
    lacking = [need for need in built.record.needs if need not in here]
    if lacking:
        raise EngineError(
            f"{built.folder} needs {', '.join(lacking)}, which there is not here: serve the ONNX file, or build an "
            "engine on this machine with `calibox build`"
        )


def check_contract(inputs: Signature, outputs: Signature, manifest: Manifest) -> None:
    """Compares names, types and shapes of a graph with the graph contract and the bundle's manifest.

    Args:
        inputs, outputs: name to (element type as ONNX Runtime writes it, shape with None where it is free).
        manifest: says sizes.

    Raises:
        BundleError: one sentence with every difference.
    """
    expected_inputs, expected_outputs = graph_contract(manifest)
    wrong = [*_differences("input", expected_inputs, inputs), *_differences("output", expected_outputs, outputs)]
    wrong += [f"input {name} is unknown" for name in sorted(set(inputs) - set(expected_inputs))]
    if wrong:
        raise BundleError(
            f"the graph of {manifest.name}/{manifest.version} does not follow the graph contract: {'; '.join(wrong)}; "
            "export the bundle again with this version of calibox"
        )


def _differences(what: str, expected: Signature, found: Signature) -> list[str]:
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
