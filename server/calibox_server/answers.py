"""Answers as JSON. Floats are written with the digits that a float32 has."""

from collections.abc import Sequence
from typing import Any

import orjson

from calibox_core.manifest import Manifest
from calibox_server.detections import ImageDetections
from calibox_server.models import BrokenModel, Models
from calibox_server.pipeline import Pipeline


def detections_json(manifest: Manifest, found: Sequence[ImageDetections], timing_ms: dict[str, float]) -> bytes:
    """The answer of `POST /v1/detect`."""
    document = {
        "model": manifest.name,
        "version": manifest.version,
        "results": [_result(image, manifest) for image in found],
        "timing": timing_ms,
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _result(image: ImageDetections, manifest: Manifest) -> dict[str, Any]:
    classes = manifest.classes
    rows = zip(
        image.boxes, image.labels, image.scores, image.classification_scores, image.localization_scores, strict=True
    )
    return {
        "width": image.width,
        "height": image.height,
        "detections": [
            {
                "box": box,
                "label": classes[label].name,
                "label_id": classes[label].category_id,
                "score": score,
                "classification_score": classification,
                "localization_score": localization,
            }
            for box, label, score, classification, localization in rows
        ],
    }


def models_document(models: Models) -> dict[str, Any]:
    """The answer of `GET /v1/models`."""
    ready = [_summary(pipeline, models) for pipeline in models]
    return {"models": ready + [_broken(model) for model in models.broken]}


def model_document(models: Models, name: str) -> dict[str, Any]:
    """The answer of `GET /v1/models/{name}`: every version with its whole manifest.

    Raises:
        UnknownModelError: no version of it was found, not even a broken one.
    """
    versions = [
        {**_summary(pipeline, models), "manifest": pipeline.manifest.model_dump(mode="json")}
        for pipeline in models
        if pipeline.manifest.name == name
    ]
    versions += [_broken(model) for model in models.broken if model.name == name]
    if not versions:
        models.find(name, None)
    return {"name": name, "default_version": models.default_version(name), "versions": versions}


def _summary(pipeline: Pipeline, models: Models) -> dict[str, Any]:
    manifest, engine = pipeline.manifest, pipeline.engine
    return {
        "name": manifest.name,
        "version": manifest.version,
        "state": "ready",
        "default": manifest.version == models.default_version(manifest.name),
        "description": manifest.description,
        "classes": [{"name": c.name, "label_id": c.category_id} for c in manifest.classes],
        "input": {"width": manifest.input.width, "height": manifest.input.height},
        "fusion": manifest.fusion.model_dump(mode="json"),
        "score_threshold": manifest.thresholds.score,
        "iou_threshold": manifest.thresholds.iou,
        "max_detections": manifest.nms.max_detections,
        "operating_points": [point.model_dump(mode="json") for point in manifest.operating_points],
        "example": manifest.example,
        "refinement": manifest.refinement and manifest.refinement.model_dump(mode="json"),
        "engine": {"name": engine.name, "instances": engine.instances, "max_batch": engine.max_batch},
    }


def _broken(model: BrokenModel) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "state": "broken", "default": False, "reason": model.reason}
