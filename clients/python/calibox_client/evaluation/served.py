"""Which model is measured, learnt from the server before the first image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from calibox_client.async_client import AsyncClient
from calibox_client.errors import CaliboxClientError
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.models import choose_model
from calibox_core.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is measured."""

    name: str
    version: str
    labels: Mapping[int, str]  # class name by category id
    max_detections: int  # most detections per image that it can return
    files: Mapping[str, str]  # sha256 of its files: the same name may hold other weights tomorrow
    document: Mapping[str, Any]  # its manifest as the server tells it

    def manifest(self) -> Manifest:
        """The whole manifest.

        Raises:
            EvaluationError: it is of another version of calibox.
        """
        try:
            return Manifest.model_validate(self.document)
        except ValidationError as error:
            raise EvaluationError(
                f"the manifest of {self.name}/{self.version} is not one of this version: {error.errors()[0]['msg']}; "
                "measure with the calibox that serves it"
            ) from error


async def find_served(client: AsyncClient, model: str | None, version: str | None) -> Served:
    """The model that requests with this name and version get.

    Raises:
        EvaluationError: no such model, or the server cannot be asked.
    """
    try:
        chosen = choose_model(await client.models(), model, version)
        manifest = (await client.model(chosen.name, chosen.version)).manifest
        most, files = int(manifest["nms"]["max_detections"]), dict(manifest["files"])
    except (CaliboxClientError, ValueError) as error:
        raise EvaluationError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise EvaluationError(f"the server's manifest of {model} lacks {error}; is it of another version?") from error
    return Served(chosen.name, chosen.version, chosen.labels, most, files, dict(manifest))


def class_warning(served: Served, annotations: Mapping[str, Any]) -> str | None:
    """A sentence when category ids mean something else here: AP would be near 0 without a word."""
    here = {int(entry["id"]): str(entry["name"]) for entry in annotations["categories"]}
    differing = [f"{i} is {name!r}, here {here.get(i)!r}" for i, name in served.labels.items() if here.get(i) != name]
    if not differing:
        return None
    return f"warning: {served.name} and the annotations disagree on category ids: {'; '.join(differing)}"
