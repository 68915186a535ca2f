"""What the protocol tells of the server and of a model."""

from typing import Any

from calibox_core import __version__
from calibox_server.errors import UnknownModelError
from calibox_server.oip.inference import find
from calibox_server.oip.tensors import TensorSpec, inputs_of, outputs_of
from calibox_server.service import Service

PLATFORM = "calibox_bundle"
# Binary data in HTTP bodies; `priority` and `timeout` among the parameters of a request.
EXTENSIONS = ("binary_tensor_data", "schedule_policy")


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "calibox", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(service: Service, model: str, version: str) -> dict[str, Any]:
    """Versions and tensors of one model.

    Raises:
        UnknownModelError: not served.
    """
    manifest = find(service, model, version).manifest
    return {
        "name": manifest.name,
        "versions": [pipeline.manifest.version for pipeline in service.models if pipeline.manifest.name == model],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in inputs_of(manifest)],
        "outputs": [_tensor(spec) for spec in outputs_of(manifest)],
    }


def is_ready(service: Service, model: str, version: str) -> bool:
    """Whether requests for a model are taken."""
    try:
        find(service, model, version)
    except UnknownModelError:
        return False
    return service.ready


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
