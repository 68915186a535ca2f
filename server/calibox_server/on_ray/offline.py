"""Detection on large sets without a server: Ray Data hands files to actors that hold the model.

Loaded by name (entry point `ray` of the group `calibox.offline`), so that the client, which knows nothing of this room,
offers it in its commands.
"""

import logging
import math
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibox_core.bundle import read_bundle
from calibox_core.errors import CaliboxError
from calibox_server.errors import UnknownModelError
from calibox_server.options import MAX_TIMEOUT_MS, Options
from calibox_server.parameters import read_parameters, read_target

# Files of one task: some seconds of work for an actor, so that what Ray does for a task costs nothing beside it, and
# few enough to do again where an actor is lost.
_MOST_FILES = 64
_TASKS_PER_ACTOR = 4  # at least, so that no actor idles while another has the last large task


class ClusterError(CaliboxError):
    """The Ray cluster cannot be reached, or has no room."""


@dataclass(frozen=True, slots=True)
class Share:
    """What is asked of the cluster.

    Attributes:
        actors: that hold the model; as many as have room where None.
        cores: of each.
        gpus: of each.
    """

    actors: int | None
    cores: int
    gpus: float


def detect_files(
    paths: Sequence[Path],
    *,
    bundle: Path,
    parameters: Mapping[str, Any],
    actors: int | None = None,
    cores: int = 1,
    gpus: float = 0.0,
) -> Generator[tuple[int, bytes]]:
    """Status and body of every file in its order, as `POST /v1/detect` answers; starts a cluster where there is none.

    Args:
        paths: of images; every node must find them there.
        bundle: folder of one version of one model; every node must find it there.
        parameters: of the detection, by name; a value or a list of values.
        actors, cores, gpus: as `Share` says.

    Raises:
        BundleError: the bundle is not whole.
        ParameterError, UnknownModelError: a parameter is not accepted.
        ClusterError: the cluster cannot be reached, or has no room.
    """
    given = {name: value if isinstance(value, list) else [value] for name, value in parameters.items()}
    check(bundle, given)
    if not paths:
        return
    share = Share(actors, cores, gpus)
    start_ray()
    count = actors or _room(share)
    yield from _run(paths, _options(bundle), given, share, count)


def check(bundle: Path, given: Mapping[str, Sequence[Any]]) -> None:
    """Says before anything is started what is wrong with the bundle or the parameters.

    Raises:
        BundleError, ParameterError, UnknownModelError: that.
    """
    manifest = read_bundle(bundle).manifest
    name, version = read_target(given)
    if name not in (None, manifest.name) or version not in (None, manifest.version):
        raise UnknownModelError(
            f"{bundle} is {manifest.name}/{manifest.version}, not {name or 'any'}/{version or 'any'}; name "
            "another bundle"
        )
    read_parameters(given, manifest, default_timeout_ms=MAX_TIMEOUT_MS)


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names or that runs here, or starts one of this machine's cores.

    Raises:
        ClusterError: it cannot be reached.
    """
    # Read when Ray is imported: its makers are told nothing, and people nothing that is not theirs to know.
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, value)
    import ray

    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # Ray has no one class for what then happens
        raise ClusterError(f"no Ray cluster could be joined or started: {error}") from error


def images_per_task(files: int, actors: int) -> int:
    """How many files one task has."""
    return max(1, min(_MOST_FILES, math.ceil(files / (actors * _TASKS_PER_ACTOR))))


def _options(bundle: Path) -> dict[str, Any]:
    """Settings of an actor, for which the environment of its node has no better word."""
    most = Options.model_fields["queue_size"].default
    patience = {"timeout_ms": MAX_TIMEOUT_MS, "queue_size": max(most, _MOST_FILES), "reserved_places": 0}
    return {**patience, "models": bundle.resolve(), "log_level": "warning", "score_histograms": False}


def _room(share: Share) -> int:
    """How many actors the cluster has room for now."""
    import ray

    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    rooms = [free.get("CPU", 0.0) // share.cores] + ([free.get("GPU", 0.0) // share.gpus] if share.gpus else [])
    if min(rooms) < 1:
        asked = f"{share.cores} cores" + (f" and {share.gpus:g} GPUs" if share.gpus else "")
        raise ClusterError(
            f"the Ray cluster has no {asked} free ({free.get('CPU', 0.0):g} cores, {free.get('GPU', 0.0):g} GPUs); "
            "ask for less, or wait for its other work; with --actors it is waited for"
        )
    return int(min(rooms))


def _run(
    paths: Sequence[Path], options: Mapping[str, Any], given: Mapping[str, Any], share: Share, actors: int
) -> Generator[tuple[int, bytes]]:
    import ray.data

    from calibox_server.on_ray.detector import Detector

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # what fails is raised too
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = [{"place": place, "path": str(path.resolve())} for place, path in enumerate(paths)]
    blocks = math.ceil(len(rows) / images_per_task(len(rows), actors))
    found = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Detector,
        batch_size=None,  # a block is a task
        fn_constructor_args=(options, given),
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=share.cores,
        num_gpus=share.gpus or None,
    )
    for expected, row in enumerate(found.iter_rows()):
        assert row["place"] == expected  # `preserve_order`
        yield int(row["status"]), row["body"]
