"""From a bundle's folder to a model repository, and what is said about it."""

import os
from collections.abc import Iterator
from pathlib import Path

from calibox_core.bundle import find_bundles, read_bundle
from calibox_core.errors import InvalidParameterError
from calibox_export.triton.config import Shape
from calibox_export.triton.options import Device
from calibox_export.triton.readme import start_line
from calibox_export.triton.repository import Layout, write_repository


def layout_of(device: Device, instances: int | None, max_batch: int) -> Layout:
    """How the models run, where what was not said depends on the device."""
    on_gpu = Shape("gpu", instances or 1, max_batch)
    on_cpu = Shape("cpu", instances or os.cpu_count() or 1, max_batch)
    return Layout(onnx=on_cpu if device == "cpu" else on_gpu, engine=on_gpu)


def export_repository(folder: Path, destination: Path, layout: Layout) -> Iterator[str]:
    """Writes the repository of one bundle, and says how Triton is started.

    Args:
        folder: of one version, or of a model that has one.
        destination: as `write_repository`.
        layout: likewise.

    Raises:
        CaliboxError: as `write_repository`; the folder holds several bundles.
    """
    found = find_bundles(folder)
    if len(found) > 1:
        raise InvalidParameterError(
            f"{folder} holds {len(found)} bundles; name one version, such as {found[-1]}, and a folder for each"
        )
    bundle = read_bundle(found[0] if found else folder)
    for one in write_repository(bundle, destination, layout):
        line = start_line(one, bundle.manifest.version, str(destination.resolve()))
        yield f"{destination / one.graph.model} and {one.detect}; serve them with\n    {line}"
