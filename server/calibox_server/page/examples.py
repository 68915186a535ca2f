"""The example pictures of bundles."""

from pathlib import Path

from calibox_core.manifest import Manifest
from calibox_server.model_folder import look


def find_example(models: Path, manifest: Manifest) -> Path | None:
    """The example picture of a bundle below ``models``; None where it brings none. Blocks.

    Only a file that the manifest lists is taken: those were found inside the bundle and hashed when it was loaded.
    """
    if manifest.example is None or manifest.example not in manifest.files:
        return None
    wanted = manifest.name, manifest.version
    found = (place.folder / manifest.example for place in look(models) if place.key == wanted)
    return next(filter(Path.is_file, found), None)
