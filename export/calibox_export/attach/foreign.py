"""A foreign detector's ONNX file: opened, brought to this project's opset, and looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, version_converter

from calibox_core.manifest import OPSET
from calibox_export.attach.description import ForeignHints, Layout
from calibox_export.errors import ExportError

Arrays = dict[str, NDArray[Any]]
KINDS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)
_AXES: dict[tuple[int, int], Layout] = {(4, 1): "nchw", (4, 3): "nhwc", (3, 0): "chw", (3, 2): "hwc"}
_NUMPY: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8,
}


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Where the file takes its pictures."""

    name: str
    kind: int  # of `KINDS`
    layout: Layout
    height: int
    width: int
    one: bool  # takes one picture at a time: no axis of images, or one of 1

    def blank(self, images: int) -> NDArray[Any]:
        """An input of zeros; of one picture where there is no axis of images."""
        sizes = {"n": images, "c": 3, "h": self.height, "w": self.width}
        return np.zeros([sizes[axis] for axis in self.layout], _NUMPY[self.kind])


def open_foreign(path: Path) -> onnx.ModelProto:
    """The model in ``path``, weights beside it included, at opset 20.

    Raises:
        ExportError: it cannot be read, is no sound model, or is of an opset that cannot be converted.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, the checker and the file system raise errors of their own
        raise ExportError(f"{path} cannot be read as an ONNX model: {_first_line(error)}") from error
    return at_our_opset(model, str(path))


def at_our_opset(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """The model at opset 20, by onnx's own converter.

    Raises:
        ExportError: the converter cannot; the text says what to do.
    """
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    if version == OPSET:
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises errors of its own
        raise ExportError(
            f"{source} is of opset {version} and cannot be brought to opset {OPSET} ({_first_line(error)}); export it "
            f"again with opset_version={OPSET}"
        ) from error
    return converted


def image_input(model: onnx.ModelProto, hints: ForeignHints) -> ImageInput:
    """The input that pictures go into.

    Raises:
        ExportError: there is none, or what the hints leave open cannot be seen in the file.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in model.graph.input if value.name not in weights}
    name = hints.input or next(iter(inputs), "")
    if len(inputs) != 1 or name not in inputs:
        raise ExportError(
            f"a detector with one input is needed, and this one has {', '.join(inputs) or 'none'}"
            + (f"; `input` says {hints.input}" if hints.input else "")
        )
    kind = inputs[name].elem_type
    if kind not in KINDS:
        names = ", ".join(TensorProto.DataType.Name(k).lower() for k in KINDS)
        raise ExportError(f"the input {name} is {TensorProto.DataType.Name(kind).lower()}; one of {names} is needed")
    sizes = [axis.dim_value for axis in inputs[name].shape.dim]  # 0: left open
    layout = _layout(name, sizes, hints.layout)
    found = dict(zip(layout, sizes, strict=True))
    if found["c"] not in (0, 3):
        raise ExportError(f"the input {name} has {found['c']} channels as {layout}; 3 are needed")
    if found.get("n", 0) > 1:
        raise ExportError(f"the input {name} takes {found['n']} pictures at once; export it for 1, or for any number")
    height, width = (_side(name, axis, found[axis[0]], getattr(hints, axis)) for axis in ("height", "width"))
    return ImageInput(name, kind, layout, height, width, one=found.get("n", 1) == 1)


def _layout(name: str, sizes: Sequence[int], hinted: Layout | None) -> Layout:
    if hinted is not None:
        if len(hinted) != len(sizes):
            raise ExportError(f"`layout` says {hinted}, but the input {name} has {len(sizes)} axes: {list(sizes)}")
        return hinted
    fits = [layout for (rank, axis), layout in _AXES.items() if rank == len(sizes) and sizes[axis] == 3]
    if len(fits) != 1:
        raise ExportError(
            f"the input {name} of {list(sizes)} (0: left open) does not say which axis holds the colours; write "
            "`layout: nchw` (or nhwc, chw, hwc) into the description"
        )
    return fits[0]


def _side(name: str, axis: str, size: int, hinted: int | None) -> int:
    if size == 0 and hinted is None:
        raise ExportError(
            f"the file leaves the {axis} of {name} open; write `{axis}:` with its pixels into the description"
        )
    if size and hinted is not None and hinted != size:
        raise ExportError(f"`{axis}` says {hinted}, but the file fixes the {axis} of {name} to {size}")
    if size and not 32 <= size <= 8192:
        raise ExportError(f"the {axis} of {name} is {size} pixels; a bundle takes 32 to 8192")
    return size or cast(int, hinted)


def output_names(arrays: Mapping[str, NDArray[Any]], hints: ForeignHints) -> tuple[str, str, str | None]:
    """Names of boxes, scores and labels; no labels where scores have one value per class.

    Args:
        arrays: every output of one run, by name.
        hints: what they name is taken.

    Raises:
        ExportError: the outputs cannot be told apart.
    """
    told = {"boxes": hints.boxes, "scores": hints.scores, "labels": hints.labels}
    for what, name in told.items():
        if name is not None and name not in arrays:
            raise ExportError(f"`{what}` says {name}, but the file's outputs are {', '.join(arrays)}")
    boxes = hints.boxes or _only(
        "boxes", [n for n, a in arrays.items() if a.ndim in (2, 3) and a.shape[-1] == 4], arrays
    )
    rest = {n: a for n, a in arrays.items() if n != boxes and n not in told.values()}
    rank = arrays[boxes].ndim
    dense = [n for n, a in rest.items() if a.ndim == rank and a.shape[-2] == arrays[boxes].shape[-2]]
    flat = [n for n, a in rest.items() if a.ndim == rank - 1 and a.shape == arrays[boxes].shape[:-1]]
    if hints.scores is not None:
        if arrays[hints.scores].ndim == rank:
            return boxes, hints.scores, None
        return boxes, hints.scores, hints.labels or _only("labels", flat, arrays)
    if hints.labels is None and dense:
        return boxes, _only("scores", dense, arrays), None
    labels = hints.labels or _only("labels", _labels(flat, arrays), arrays)
    return boxes, _only("scores", [n for n in flat if n != labels], arrays), labels


def _labels(names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Whole numbers, or what is called so."""
    whole = [n for n in names if np.issubdtype(arrays[n].dtype, np.integer)]
    return whole or [n for n in names if any(word in n.lower() for word in ("label", "class", "cls"))]


def _only(what: str, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> str:
    if len(names) == 1:
        return names[0]
    shapes = ", ".join(f"{n} {a.dtype} {list(a.shape)}" for n, a in arrays.items())
    raise ExportError(
        f"which output holds the {what} cannot be told ({len(names)} would do); write `{what}:` into the description. "
        f"The outputs of one run: {shapes}"
    )


def run_once(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """All outputs of a run on the CPU, by name.

    Raises:
        ExportError: ONNX Runtime cannot run it.
    """
    names = [value.name for value in model.graph.output]
    try:
        return dict(zip(names, open_session(model).run(names, dict(feeds)), strict=True))
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise ExportError(f"ONNX Runtime cannot run the detector: {_first_line(error)}") from error


def open_session(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session on the CPU.

    Raises:
        ExportError: ONNX Runtime refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; exporters leave much behind that it warns of
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise ExportError(f"ONNX Runtime cannot open the detector: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
