"""A bundle on disk: ``<model-name>/<version>/`` with model.onnx, manifest.json and, later, engines/."""

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from calibox_core.errors import BundleError
from calibox_core.manifest import Manifest

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were found and whose hashes match its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL_FILE


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of ``folder``.

    Raises:
        BundleError: it is absent or does not follow the schema; the text lists the fields.
    """
    path = folder / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{folder} is not a bundle: {MANIFEST_FILE} cannot be read ({error.strerror})") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise BundleError(f"{path} does not follow the manifest schema: {wrong}") from error


def read_bundle(folder: Path) -> Bundle:
    """Reads and checks the bundle in ``folder`` (``<model-name>/<version>``).

    Raises:
        BundleError: a file is missing or its bytes differ from the manifest's sha256, or the manifest is wrong.
    """
    manifest = read_manifest(folder)
    if MODEL_FILE not in manifest.files:
        raise BundleError(f"{folder / MANIFEST_FILE} lists no {MODEL_FILE} under `files`; export the bundle again")
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder / MANIFEST_FILE} names a file outside the bundle: {name}")
        if not path.is_file():
            raise BundleError(f"{folder} lacks {name}, which its manifest lists; copy the whole bundle again")
        if sha256_of(path) != expected:
            raise BundleError(f"{path} is not the file that the manifest describes (sha256 differs); copy it again")
    return Bundle(folder, manifest)


def find_bundles(root: Path) -> list[Path]:
    """Folders under a model repository that hold a manifest, ordered by name and version number.

    ``root`` may be a repository, one model's folder or one version's folder.
    """
    if (root / MANIFEST_FILE).is_file():
        return [root]
    found = [path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/{MANIFEST_FILE}")]
    # What `new_bundle` is still writing has a name with a dot.
    whole = (folder for folder in found if not folder.name.startswith("."))
    return sorted(whole, key=lambda p: (p.parent.name, p.name.zfill(9)))


@contextmanager
def new_bundle(destination: Path) -> Iterator[Path]:
    """`new_folder` for a bundle.

    Raises:
        BundleError: ``destination`` exists.
    """
    if destination.exists():
        raise BundleError(f"{destination} exists; choose another version or remove it first")
    with new_folder(destination) as scratch:
        yield scratch


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A scratch folder beside ``destination`` that becomes it by one rename when the block ends well."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(destination)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def next_version(model: Path) -> str:
    """One more than the highest version in a model's folder."""
    taken = (int(path.name) for path in model.glob("*") if path.name.isascii() and path.name.isdigit())
    return str(max(taken, default=0) + 1)


def copy_files(bundle: Bundle, destination: Path, *, leave_out: Collection[str] = ()) -> None:
    """Copies the files that a bundle's manifest lists, without the manifest, into another folder."""
    for name in bundle.manifest.files.keys() - set(leave_out):
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, destination / name)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Writes ``manifest`` with the sha256 of every file that lies in ``folder``, whole or not at all."""
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST_FILE and "engines" not in path.relative_to(folder).parts
    )
    sealed = manifest.model_copy(update={"files": {name: sha256_of(folder / name) for name in names}})
    scratch = folder / f".{MANIFEST_FILE}"
    scratch.write_text(sealed.model_dump_json(indent=2) + "\n")
    scratch.replace(folder / MANIFEST_FILE)
    return sealed
