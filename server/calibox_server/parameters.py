"""Per-request parameters: from names and raw values to what the graph takes. Pure; knows nothing of HTTP.

A value is a string (query, form) or a JSON value; each name maps to the list of values it was given.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from calibox_core.errors import InvalidParameterError
from calibox_core.fusion import MAX_ALPHA, MIN_SIGMA, Exponents, Fusion, FusionName
from calibox_core.manifest import Manifest
from calibox_core.operating_point import OperatingPoint
from calibox_server.errors import ParameterError
from calibox_server.options import MAX_TIMEOUT_MS
from calibox_server.queue import Priority
from calibox_server.tiles import Tiling

Given = Mapping[str, Sequence[Any]]

MIN_TILE = 32  # pixels; a smaller tile shows a detector nothing that it was trained on
MAX_OVERLAP = 0.9
DEFAULT_OVERLAP = 0.2  # objects up to a fifth of a tile are whole in one of them

_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}

# name -> (JSON schema, description); the API's documentation and the list in the error for unknown names.
KNOWN: Mapping[str, tuple[dict[str, Any], str]] = {
    "model": ({"type": "string"}, "Name of the model; needed only where several are served."),
    "version": ({"type": "string"}, "Version of the model; the highest one when absent."),
    "fusion": (
        {"type": "string", "enum": [name.value for name in FusionName]},
        "How classification and localization score are combined into the ranking; the model's own when absent.",
    ),
    "alpha": (
        {"type": "number", "minimum": 0, "maximum": MAX_ALPHA},
        "Parameter of the fusions `geometric` (p^alpha * q^(1-alpha), 0..1) and `power` (p * q^alpha).",
    ),
    "sigma": (
        {"type": "number", "minimum": MIN_SIGMA},
        "Parameter of the fusion `gaussian` (p * exp(-(1-q)^2 / sigma)).",
    ),
    "operating_point": (
        {"type": "string"},
        "Name of one of the model's operating points, which sets fusion and score thresholds, for each class its own "
        "where it has one. What the request names itself goes before it.",
    ),
    "score_threshold": (_PROBABILITY, "Detections with a `score` of at least this are returned."),
    "iou_threshold": (_PROBABILITY, "A box that overlaps a better one by more than this (IoU) is suppressed."),
    "max_detections": (
        {"type": "integer", "minimum": 1},
        "At most this many detections per image, the best by ranking; the model's own limit is the largest value.",
    ),
    "classes": (
        {"type": "string"},
        "Only these classes: names or label ids, separated by commas (in JSON also a list). The others are left out "
        "after suppression.",
    ),
    "refine": (
        {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}]},
        "Whether boxes move to where the model predicts a better fit, or in how many steps; `true` is as many as the "
        "model has. One value for all images, or one for each (a list in JSON, a repeated field). Models whose "
        "manifest says `can_refine` only.",
    ),
    "tile": (
        {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": MIN_TILE}]},
        "Cut each image into square tiles of so many pixels, or of the model's own input size (`true`), look at these "
        "and at the whole, and merge what is found: for small objects in large images.",
    ),
    "overlap": (
        {"type": "number", "minimum": 0, "maximum": MAX_OVERLAP},
        f"Least overlap of neighbouring tiles, as a share of a tile; {DEFAULT_OVERLAP} when absent.",
    ),
    "priority": (
        {"type": "string", "enum": [priority.value for priority in Priority]},
        "Whether the request goes before those of `normal` priority, which is the default and always keeps a quarter "
        "of the engine's places.",
    ),
    "timeout_ms": (
        {"type": "number", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
        "The request ends with 504 when it has no answer after this time, in ms, counted from the end of its body.",
    ),
}
_USES = {FusionName.GEOMETRIC: "alpha", FusionName.POWER: "alpha", FusionName.GAUSSIAN: "sigma"}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What one request asks of one model."""

    exponents: Exponents
    score_threshold: float  # on the graph's scale: the manifest's score map is already inverted
    iou_threshold: float
    max_detections: int
    classes: frozenset[int] | None  # 0-based labels; None keeps all
    refine_steps: tuple[int, ...]  # of each image of the request
    timeout_ms: float
    priority: Priority = Priority.NORMAL
    tiling: Tiling | None = None  # None looks at the whole image alone
    class_thresholds: tuple[float, ...] | None = None  # by label, on the graph's scale; None: `score_threshold` is all


def read_target(given: Given) -> tuple[str | None, str | None]:
    """Model name and version that a request names, None where it names none.

    Raises:
        ParameterError: an unknown parameter name; a name or version that is not text.
    """
    if not given:
        return None, None
    unknown = sorted(set(given) - set(KNOWN))
    if unknown:
        raise ParameterError(f"there is no parameter {', '.join(map(_shown, unknown))}; known are {', '.join(KNOWN)}")
    name, version = _single(given, "model"), _single(given, "version")
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)
    for what, value in (("model", name), ("version", version)):
        if value is not None and not isinstance(value, str):
            _refuse(what, "text", value)
    return name, version


def read_parameters(given: Given, manifest: Manifest, *, default_timeout_ms: float, images: int = 1) -> Parameters:
    """Checks every parameter against its range and fills in the manifest's defaults.

    Args:
        given: names and raw values; names were checked by `read_target`.
        manifest: of the model that is asked.
        default_timeout_ms: for requests that name no timeout.
        images: in the request.

    Raises:
        ParameterError: the first value that is not accepted, with its name and range.
    """
    point = _point(given, manifest)
    by_class = _class_thresholds(given, manifest, point)
    usual = manifest.thresholds.score if point is None else point.score_threshold
    score = _number(given, "score_threshold", 0, 1, default=usual)
    return Parameters(
        exponents=_exponents(given, manifest.fusion if point is None else point.fusion),
        score_threshold=manifest.score_map.invert(score) if by_class is None else min(by_class),
        iou_threshold=_number(given, "iou_threshold", 0, 1, default=manifest.thresholds.iou),
        max_detections=_whole_number(given, "max_detections", 1, manifest.nms.max_detections),
        classes=_classes(given, manifest),
        refine_steps=_refine_steps(given, manifest, images),
        timeout_ms=_number(given, "timeout_ms", 1, MAX_TIMEOUT_MS, default=default_timeout_ms),
        priority=_priority(given),
        tiling=_tiling(given, manifest),
        class_thresholds=by_class,
    )


def _point(given: Given, manifest: Manifest) -> OperatingPoint | None:
    name = _single(given, "operating_point")
    if name is None:
        return None
    points = {point.name: point for point in manifest.operating_points}
    if not points:
        raise ParameterError(
            f"operating_point is {_shown(name)}, and {manifest.name}/{manifest.version} has none; leave it out, or "
            "make some with `calibox calibrate`"
        )
    if not isinstance(name, str) or name not in points:
        _refuse("operating_point", f"one of {', '.join(points)}", name)
    return points[name]


def _class_thresholds(given: Given, manifest: Manifest, point: OperatingPoint | None) -> tuple[float, ...] | None:
    """Of a point that has some; a threshold in the request goes before all of them."""
    if point is None or not point.class_thresholds or _single(given, "score_threshold") is not None:
        return None
    return tuple(manifest.score_map.invert(point.threshold_of(name)) for name in manifest.label_names)


def _exponents(given: Given, default: Fusion) -> Exponents:
    name = _single(given, "fusion")
    if name is not None and name not in list(FusionName):
        _refuse("fusion", f"one of {', '.join(FusionName)}", name)
    fusion = default if name in (None, default.name) else Fusion(name=FusionName(name))
    used = _USES.get(fusion.name)
    for parameter in ("alpha", "sigma"):
        if parameter != used and _single(given, parameter) is not None:
            users = " and ".join(f for f, p in _USES.items() if p == parameter)
            raise ParameterError(f"{parameter} belongs to the fusion {users}, and this request's is {fusion.name}")
    alpha = _number(given, "alpha", 0, MAX_ALPHA, default=fusion.alpha)
    sigma = _number(given, "sigma", MIN_SIGMA, math.inf, default=fusion.sigma)
    try:
        return Fusion(name=fusion.name, alpha=alpha, sigma=sigma).exponents()
    except InvalidParameterError as error:
        raise ParameterError(str(error)) from error


def _priority(given: Given) -> Priority:
    value = _single(given, "priority")
    if value is not None and value not in list(Priority):
        _refuse("priority", f"one of {', '.join(Priority)}", value)
    return Priority(value) if value is not None else Priority.NORMAL


def _tiling(given: Given, manifest: Manifest) -> Tiling | None:
    value = _single(given, "tile")
    text = str(value).lower()
    if value is None or text == "false":
        if _single(given, "overlap") is not None:
            raise ParameterError("overlap says how tiles overlap, and this request asks for no tiles; add tile=true")
        return None
    overlap = _number(given, "overlap", 0, MAX_OVERLAP, default=DEFAULT_OVERLAP)
    if text == "true":
        return Tiling(manifest.input.width, manifest.input.height, overlap)
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < MIN_TILE:
        _refuse("tile", f"true, false or a whole number of pixels from {MIN_TILE} on", value)
    return Tiling(int(text), int(text), overlap)


def _classes(given: Given, manifest: Manifest) -> frozenset[int] | None:
    values = [value for value in given.get("classes", ()) if value is not None]
    if not values:
        return None
    by_name = {name: label for label, name in enumerate(manifest.label_names)}
    by_id = {str(c.category_id): label for label, c in enumerate(manifest.classes)}
    labels = set()
    for value in values:
        text = value if isinstance(value, str) else _class_id(value)
        # A name may hold a comma: the whole text is tried first.
        for token in [text] if text in by_name else text.split(","):
            label = by_name.get(token.strip(), by_id.get(token.strip()))
            if label is None:
                _refuse("classes", f"among {_listed(manifest.label_names)} (or their label ids)", token)
            labels.add(label)
    return frozenset(labels)


def _class_id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse("classes", "class names or label ids", value)
    return str(value)


def _refine_steps(given: Given, manifest: Manifest, images: int) -> tuple[int, ...]:
    default = manifest.refinement.default_steps if manifest.refinement is not None else 0
    values = given.get("refine", ()) or (None,)
    if len(values) not in (1, images):
        raise ParameterError(
            f"refine is given {len(values)} times for {images} images; give it once, or once for each image"
        )
    steps = [default if value is None else _steps(value, manifest) for value in values]
    return tuple(steps * images if len(steps) == 1 else steps)


def _steps(value: Any, manifest: Manifest) -> int:
    most = manifest.refinement.steps if manifest.refinement is not None else 0
    text = str(value).lower()
    if text in ("true", "false"):
        asked = max(1, most) if text == "true" else 0
    elif re.fullmatch(r"[0-9]{1,18}", text):
        asked = int(text)
    else:
        _refuse("refine", "true, false or a number of steps", value)
    if asked and manifest.refinement is None:
        raise ParameterError(
            f"refine is {_shown(value)}, and {manifest.name}/{manifest.version} cannot refine its boxes; leave it out, "
            "or ask a model whose manifest says can_refine"
        )
    if asked > most:
        _refuse("refine", f"true, false or a number of steps within 0..{most}", value)
    return asked


def _number(given: Given, name: str, low: float, high: float, *, default: float) -> float:
    value = _single(given, name)
    if value is None:
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        _refuse(name, f"a number within {low:g}..{high:g}" if high < math.inf else f"a number from {low:g} on", value)
    return number


def _whole_number(given: Given, name: str, low: int, high: int) -> int:
    value = _single(given, name)
    if value is None:
        return high
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, str):
        whole = re.fullmatch(r"[+-]?[0-9]{1,18}", value) is not None
    if not whole or not low <= int(value) <= high:
        _refuse(name, f"a whole number within {low}..{high}", value)
    return int(value)


def _single(given: Given, name: str) -> Any:
    values = [value for value in given.get(name, ()) if value is not None]
    if len(values) > 1:
        raise ParameterError(f"{name} is given {len(values)} times; give it once")
    return values[0] if values else None


def _refuse(name: str, expected: str, value: object) -> NoReturn:
    raise ParameterError(f"{name} must be {expected}, got {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # a sentence, not an echo of the request


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"
