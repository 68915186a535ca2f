"""Whether an engine of TensorRT can run here: asked before it is read, as TensorRT says it in serial numbers only."""

import hashlib

from calibox_core.bundle import sha256_of
from calibox_core.engines import BuiltEngine, EngineError
from calibox_core.tensorrt_package import PLAN_FILE, PLUGIN_FILE


def check_version(built: BuiltEngine, version: str) -> None:
    """A plan is read by the minor version that wrote it.

    Raises:
        EngineError: another one is installed.
    """
    wanted, found = (".".join(text.split(".")[:2]) for text in (built.record.runtime_version, version))
    if wanted != found:
        package = built.record.runtime
        raise EngineError(
            f"{built.folder} was built by {package} {built.record.runtime_version}, and {version} is installed: "
            f"install that version (pip install '{package}=={wanted}.*'), or {mend(built)}"
        )


def check_device(built: BuiltEngine, capability: str) -> None:
    """A plan runs on the compute capabilities that it was built for; its record names one or several.

    Raises:
        EngineError: this device has another.
    """
    needs = built.record.needs
    if needs and capability not in needs:
        raise EngineError(
            f"{built.folder} was built for GPUs of {' or '.join(needs)}, and this one is {capability}: {mend(built)}"
        )


def check_plugin(built: BuiltEngine) -> None:
    """The library beside a plan is the one that it was built with.

    Raises:
        EngineError: it is another.
    """
    path, wanted = built.folder / PLUGIN_FILE, built.record.plugin_sha256
    if path.is_file() and sha256_of(path) != wanted:
        raise EngineError(f"{path} is not the plugin that the engine was built with: {mend(built)}")


def trusted_plan(built: BuiltEngine) -> bytes:
    """The plan, and no other: a plan may carry code of a plugin.

    Raises:
        EngineError: it is missing, or not the file of the record.
    """
    path = built.folder / PLAN_FILE
    plan = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(plan).hexdigest() != built.record.files.get(PLAN_FILE):
        raise EngineError(f"{path} is missing or not the file that the engine's record describes: {mend(built)}")
    return plan


def mend(built: BuiltEngine) -> str:
    """What to do about an engine that is of no use here."""
    record, bundle = built.record, built.folder.parents[2]
    return (
        f"build it again on this machine with `calibox build {bundle} --engine {record.runtime} "
        f"--precision {record.precision}`"
    )
