"""What is told of the models."""

from typing import Any

from calibox_server.models import BrokenModel, Models
from calibox_server.pipeline import Pipeline


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
