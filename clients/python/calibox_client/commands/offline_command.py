"""What the options of `--ray` mean, the same for `calibox detect` and `calibox eval`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from calibox_client.commands.failures import CommandError
from calibox_client.offline import Offline
from calibox_core.cli import require_extra

ShareOfCluster = tuple[int | None, int, float]  # actors, and cores and GPUs of each


def offline_of(command: str, bundle: Path | None, share: ShareOfCluster, refused: Mapping[str, bool]) -> Offline:
    """The actors that the command line asks for.

    Args:
        command: `detect` or `eval`.
        bundle: of ``--bundle``.
        share: of the cluster.
        refused: options that have no meaning with ``--ray``, and whether they were given.

    Raises:
        CommandError: an option is missing, or one too many.
        MissingExtraError: packages are missing.
    """
    for option, given in refused.items():
        if given:
            raise CommandError(f"{option} asks a server, and --ray asks none; leave one of them out")
    if bundle is None:
        raise CommandError("--ray loads the model itself; name its folder: --bundle models/NAME/VERSION")
    require_extra(f"{command} --ray", "ray", "ray", "pyarrow", "fastapi", "cv2", "simplejpeg")
    require_extra(f"{command} --ray", "cpu", "onnxruntime")
    actors, cores, gpus = share
    return Offline(bundle, actors, cores, gpus)


def detect_on_ray(
    images: Sequence[str],
    bundle: Path | None,
    output: Path | None,
    share: ShareOfCluster,
    parameters: Mapping[str, Any],
    refused: Mapping[str, bool],
) -> None:
    """`calibox detect --ray`.

    Raises:
        CaliboxError: it cannot start or go on.
        typer.Exit: with status 1 where images failed.
    """
    offline = offline_of("detect", bundle, share, refused)
    if output is None:
        raise CommandError("--ray writes into a file, for what is interrupted can go on then; name it: --output FILE")
    from calibox_client.commands.offline_asking import OfflineAsked, detect_offline

    if detect_offline(OfflineAsked(images, output, offline, parameters)):
        raise typer.Exit(1)
