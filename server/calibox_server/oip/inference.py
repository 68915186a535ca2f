"""One inference request of the protocol, whichever way it came: from tensors to tensors.

Every image of a request is a piece of work of its own, as in `POST /v1/detect`: it shares batches with whatever else
waits, so that a large request neither needs an engine that takes its size nor holds up the small ones behind it, and
its answer is the one that each of its images would get alone.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.errors import InvalidParameterError
from calibox_core.fusion import Exponents, check_exponents
from calibox_core.manifest import Manifest
from calibox_server.detections import reaching
from calibox_server.engine import EngineOutput, tells_candidates
from calibox_server.engine_runner import RawDetections, Work, clock
from calibox_server.errors import MalformedRequestError, ParameterError, StoppingError
from calibox_server.oip.requests import InferRequest, RequestedOutput
from calibox_server.oip.tensors import (
    answer_tensors,
    candidate_outputs_of,
    candidate_tensors,
    outputs_of,
    read_tensors,
)
from calibox_server.options import MAX_TIMEOUT_MS
from calibox_server.parameters import Parameters, read_parameters
from calibox_server.pipeline import Pipeline
from calibox_server.queue import Priority
from calibox_server.records import Record
from calibox_server.server_timing import in_ms
from calibox_server.service import Service


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """The tensors that were asked for, in that order."""

    model: str
    version: str
    id: str
    tensors: Mapping[str, NDArray[Any]]
    datatypes: Mapping[str, str]
    binary: frozenset[str]  # names of those that should not be JSON


def check_door(service: Service, model: str, version: str) -> None:
    """Refuses before a body is read, when it is sure that the request could not be taken.

    Raises:
        StoppingError, UnknownModelError, OverloadedError: so it is.
    """
    if service.stopping:
        raise StoppingError("the server is stopping and takes no new requests; send it again elsewhere")
    find(service, model, version).check_room(Priority.HIGH)  # whichever priority it asks for stands in the body


def find(service: Service, model: str, version: str) -> Pipeline:
    """The model that a request means; an empty version is the server's choice.

    Raises:
        UnknownModelError: not served.
    """
    return service.models.find(model, version or None)


async def infer(
    service: Service, model: str, version: str, asked: InferRequest, record: Record, *, time_left: float = math.inf
) -> InferAnswer:
    """Answers a request.

    Args:
        service, model, version: who is asked.
        asked: what.
        record: of the request; charged for its images, and filled.
        time_left: seconds after which its caller does not wait any more, from now on.

    Raises:
        ServiceError: any of the tree.
    """
    pipeline = find(service, model, version)
    manifest = pipeline.manifest
    usual = [spec.name for spec in outputs_of(manifest)]
    datatypes = {spec.name: spec.datatype for spec in (*outputs_of(manifest), *candidate_outputs_of(manifest))}
    requested = _requested(asked, usual, datatypes)
    candidates = any(output.name not in usual for output in requested)
    if candidates and not tells_candidates(pipeline.engine):
        raise MalformedRequestError(
            f"{pipeline.engine.name} does not tell what it had before suppression: serve the model by ONNX Runtime or "
            "OpenVINO for that, or leave the outputs candidate_... out"
        )
    work = make_work(
        read_tensors(asked.tensors, manifest),
        manifest,
        asked.priority,
        candidates=candidates,
        operating_point=asked.operating_point,
    )
    if len(work) > service.max_images:
        raise MalformedRequestError(
            f"{len(work)} images in one request; this server takes at most {service.max_images}"
        )
    record.charge(len(work))
    deadline = clock() + min(time_left, (asked.timeout_ms or service.settings.timeout_ms) / 1e3)
    with pipeline.admit(len(work), asked.priority) as submit:
        raw = await pipeline.infer(submit, work, deadline=deadline)
    raw = [_kept(one, image.parameters) for one, image in zip(raw, work, strict=True)]
    found = answer_tensors(raw, manifest) | (candidate_tensors(raw, manifest) if candidates else {})
    _note(service, record, manifest, raw)
    return InferAnswer(
        model=manifest.name,
        version=manifest.version,
        id=asked.id,
        tensors={output.name: found[output.name] for output in requested},
        datatypes=datatypes,
        binary=frozenset(output.name for output in requested if output.binary),
    )


def _kept(raw: RawDetections, parameters: Parameters) -> RawDetections:
    """Without the rows that are below the thresholds of their classes, where an operating point has some."""
    if parameters.class_thresholds is None:
        return raw
    rows, kept = raw.rows, reaching(raw.rows.labels, raw.rows.scores, parameters)
    found = EngineOutput(
        num_detections=np.full_like(rows.num_detections, np.count_nonzero(kept)),
        boxes=rows.boxes[kept],
        labels=rows.labels[kept],
        classification_scores=rows.classification_scores[kept],
        localization_scores=rows.localization_scores[kept],
        scores=rows.scores[kept],
    )
    return raw._replace(rows=found)


def _note(service: Service, record: Record, manifest: Manifest, raw: Sequence[RawDetections]) -> None:
    """What `POST /v1/detect` tells of a request too."""
    seconds = {
        "decode": 0.0,
        "queue": max((one.queue for one in raw), default=0.0),
        "engine": max((one.engine for one in raw), default=0.0),
        "total": clock() - record.started,
    }
    service.metrics.request_answered(seconds)
    record.stages_ms = {stage: in_ms(value) for stage, value in seconds.items()}
    record.model, record.images = f"{manifest.name}/{manifest.version}", len(raw)
    record.batch = max((one.batch for one in raw), default=0)


def _requested(asked: InferRequest, usual: Sequence[str], names: Collection[str]) -> Sequence[RequestedOutput]:
    for output in asked.outputs:
        if output.name not in names:
            raise MalformedRequestError(f"there is no output {output.name!r:.60}; the model gives {', '.join(names)}")
    return asked.outputs or [RequestedOutput(name, asked.binary_output) for name in usual]


def make_work(
    arrays: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    priority: Priority,
    *,
    candidates: bool = False,
    operating_point: str | None = None,
) -> list[Work]:
    """One piece of work per image. What was not sent is the model's own default.

    Args:
        arrays: as `read_tensors` gives them.
        manifest: of the model.
        priority: of all images.
        candidates: whether what was there before suppression is wanted.
        operating_point: of the model, in place of its defaults; a ``score_threshold`` that was sent goes before all
            of its thresholds.

    Raises:
        ParameterError: a value out of range, with the image that it belongs to.
    """
    # The timeout is not taken from here; any will do.
    defaults = read_parameters({"operating_point": [operating_point]}, manifest, default_timeout_ms=MAX_TIMEOUT_MS)
    by_class = None if "score_threshold" in arrays else defaults.class_thresholds
    defaults = replace(defaults, priority=priority, class_thresholds=by_class)
    most = manifest.refinement.steps if manifest.refinement is not None else 0
    now, images = clock(), arrays["images"]
    thresholds = _column(arrays, "score_threshold", len(images), defaults.score_threshold, -math.inf, math.inf)
    overlaps = _column(arrays, "iou_threshold", len(images), defaults.iou_threshold, 0, 1)
    steps = _column(arrays, "refine_steps", len(images), defaults.refine_steps[0], 0, most)
    fusions = _fusions(arrays, len(images), defaults)
    rows = zip(images, fusions, thresholds, overlaps, steps, strict=True)
    return [
        Work(
            image,
            replace(
                defaults, exponents=fusion, score_threshold=score, iou_threshold=overlap, refine_steps=(int(step),)
            ),
            int(step),
            now,
            candidates,
        )
        for image, fusion, score, overlap, step in rows
    ]


def _column(
    arrays: Mapping[str, NDArray[Any]], name: str, images: int, default: float, low: float, high: float
) -> list[float]:
    """One finite value per image within ``low..high``."""
    values = arrays.get(name, np.full(images, default))
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= low) & (values <= high)))
    if wrong.size:
        within = f"within {low:g}..{high:g}" if math.isfinite(low) else "a finite number"
        raise ParameterError(f"{name} of image {wrong[0]} must be {within}, got {values[wrong[0]]}")
    found: list[float] = values.tolist()
    return found


def _fusions(arrays: Mapping[str, NDArray[Any]], images: int, defaults: Parameters) -> list[Exponents]:
    if "fusion" not in arrays:
        return [defaults.exponents] * images
    try:
        return [check_exponents(Exponents(*row)) for row in arrays["fusion"].tolist()]
    except InvalidParameterError as error:
        raise ParameterError(str(error)) from error
