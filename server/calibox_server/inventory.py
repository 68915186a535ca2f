"""What a model repository holds, and what is wrong with it: for people, before or beside a server."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibox_core.bundle import MODEL_FILE, Bundle, read_bundle, read_manifest
from calibox_core.engines import EngineError, find_engines, read_engine
from calibox_core.errors import BundleError
from calibox_core.manifest import Manifest
from calibox_server.model_folder import Place, look

Check = Callable[[Bundle], Iterator[str]]


@dataclass(frozen=True, slots=True)
class StockItem:
    """One version of one model."""

    folder: str
    name: str
    version: str
    classes: int | None  # None where the manifest cannot be read, as the input
    input: tuple[int, int] | None  # width and height in pixels
    bytes: int  # of all its files, engines included
    engines: tuple[str, ...]  # runtime/precision
    parity: str | None  # what `calibox verify --chain` found, in a few words; None where it was not run
    operating_points: tuple[str, ...]  # names that requests may give
    problems: tuple[str, ...]  # one sentence each; none is a bundle that can be served

    def document(self) -> dict[str, Any]:
        """For other programs."""
        return {**asdict(self), "state": "broken" if self.problems else "ok"}


def take_stock(root: Path, check: Check = lambda _: iter(())) -> list[StockItem]:
    """Every bundle below ``root``, its hashes checked; blocks.

    Args:
        root: a repository, one model's folder or one version's.
        check: what else is wrong with a bundle whose files are whole.
    """
    return [_item(place, check) for place in look(root.resolve())]


def thorough(bundle: Bundle) -> Iterator[str]:
    """What serving a bundle would stumble over: its graph (loaded, against the contract) and its engines' records."""
    from calibox_server.onnxruntime_engine import OnnxRuntimeEngine

    try:
        OnnxRuntimeEngine(bundle)
    except BundleError as error:
        yield str(error)
    for folder in find_engines(bundle):
        try:
            read_engine(bundle, folder)
        except EngineError as error:
            yield str(error)


def _item(place: Place, check: Check) -> StockItem:
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(place.folder)
        bundle = read_bundle(place.folder)
        problems = (f"another bundle here is {place.twin} already",) if place.twin else tuple(check(bundle))
    except BundleError as error:
        problems = (str(error),)
    engines = () if manifest is None else find_engines(Bundle(place.folder, manifest))
    return StockItem(
        folder=str(place.folder),
        name=place.name,
        version=place.version,
        classes=None if manifest is None else len(manifest.classes),
        input=None if manifest is None else (manifest.input.width, manifest.input.height),
        bytes=sum(path.stat().st_size for path in place.folder.rglob("*") if path.is_file()),
        engines=tuple(f"{folder.parent.name}/{folder.name}" for folder in engines),
        parity=None if manifest is None else _parity(manifest),
        operating_points=() if manifest is None else tuple(point.name for point in manifest.operating_points),
        problems=problems,
    )


def _parity(manifest: Manifest) -> str | None:
    if manifest.parity is None:
        return None
    return manifest.parity.standing(manifest.title, manifest.files.get(MODEL_FILE, ""))
