"""The server's models and its readiness."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from calibox_client.errors import BadReplyError
from calibox_client.replies import Reply, read_json
from calibox_client.requests import MODELS_PATH, READY_PATH, HttpRequest


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version of a model that the server found."""

    name: str
    version: str
    ready: bool  # False where its bundle could not be loaded
    default: bool  # whether requests that name the model and no version get this one
    labels: Mapping[int, str]  # class name by category id; empty when not ready
    document: Mapping[str, Any]  # everything that the server says about it, the reason of a failure included

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Settings, provenance, measured AP, hashes; empty in a list of models, which leaves manifests out."""
        manifest: Mapping[str, Any] = self.document.get("manifest", {})
        return manifest


def models_request() -> HttpRequest:
    """Asks for the list of models."""
    return HttpRequest("GET", MODELS_PATH)


def model_request(name: str) -> HttpRequest:
    """Asks for the versions of one model with their manifests."""
    return HttpRequest("GET", f"{MODELS_PATH}/{quote(name, safe='')}")


def ready_request() -> HttpRequest:
    """Asks whether the server takes requests."""
    return HttpRequest("GET", READY_PATH)


def read_models(reply: Reply) -> list[ModelInfo]:
    """The list of models.

    Raises:
        ApiError: a refusal.
        BadReplyError: not such a list.
    """
    document = read_json(reply)
    try:
        return [_model(entry) for entry in document["models"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _not_an_answer_of(MODELS_PATH, error) from error


def read_model(reply: Reply, version: str | None) -> ModelInfo:
    """One version of a model with its manifest, the default one when None.

    Raises:
        ApiError: a refusal, such as an unknown model.
        BadReplyError: not such an answer.
        ValueError: the model has no such version ready.
    """
    document = read_json(reply)
    try:
        name, wanted = document["name"], version or document["default_version"]
        versions = {one.version: one for one in map(_model, document["versions"]) if one.manifest}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _not_an_answer_of(f"{MODELS_PATH}/<name>", error) from error
    if wanted not in versions:
        raise ValueError(f"the model {name} has no version {wanted} ready; it has {', '.join(versions) or 'none'}")
    return versions[wanted]


def choose_model(models: Iterable[ModelInfo], name: str | None, version: str | None) -> ModelInfo:
    """The model that a request with this name and version gets: the only one, and its default version.

    Raises:
        ValueError: it is not ready, or several models are and none is named.
    """
    ready = [model for model in models if model.ready]
    shown = ", ".join(f"{model.name}/{model.version}" for model in ready) or "none"
    if name is None and len({model.name for model in ready}) > 1:
        raise ValueError(f"the server holds several models, name one of {shown}")
    for model in ready:
        if name in (None, model.name) and (model.default if version is None else model.version == version):
            return model
    wanted = f"{name or 'a model'}{'' if version is None else f' in version {version}'}"
    raise ValueError(f"the server does not serve {wanted}; it serves {shown}")


def _model(entry: Mapping[str, Any]) -> ModelInfo:
    return ModelInfo(
        name=str(entry["name"]),
        version=str(entry["version"]),
        ready=entry["state"] == "ready",
        default=bool(entry["default"]),
        labels={int(one["label_id"]): str(one["name"]) for one in entry.get("classes", [])},
        document=dict(entry),
    )


def _not_an_answer_of(path: str, error: Exception) -> BadReplyError:
    return BadReplyError(
        f"the answer is not that of GET {path} ({type(error).__name__}: {error}); "
        "is the server of another version than this client?"
    )
