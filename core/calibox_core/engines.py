"""Engines of a bundle: ``engines/<runtime>/<precision>/``, made for one machine and rebuildable at any time.

Each has a record of what it needs; whoever loads an engine compares the record with the bundle and the machine first,
because a runtime that gets a foreign file fails late, or answers wrongly.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calibox_core.bundle import MODEL_FILE, Bundle, sha256_of
from calibox_core.errors import CaliboxError
from calibox_core.manifest import FileName, Sha256
from calibox_core.precision import Accuracy, Precision

ENGINES_FOLDER, RECORD_FILE = "engines", "engine.json"

Runtime = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]


class EngineError(CaliboxError):
    """A built engine cannot be used here; the text says why, and the command that mends it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineRecord(_Part):
    """engine.json: what a built engine is, and what it needs."""

    schema_version: Literal[1] = 1
    runtime: Runtime = Field(description="What runs it.")
    precision: Precision = Field(description="Of the arithmetic; post-processing and results are float32.")
    runtime_version: str = Field(description="Version that built it; an older one may not read it.")
    needs: tuple[str, ...] = Field(default=(), description="Capabilities the device must report, as the runtime names.")
    plugin_sha256: Sha256 | None = Field(default=None, description="Of the plugin library it was built with.")
    model_sha256: Sha256 = Field(description="Of the model.onnx it was built from.")
    files: dict[FileName, Sha256] = Field(description="sha256 of its files.")
    calibox_version: str = Field(description="Version of calibox that built it.")
    created: datetime = Field(description="UTC.")
    accuracy: Accuracy | None = Field(default=None, description="What the precision costs; null where not measured.")


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine on disk whose record could be read."""

    folder: Path
    record: EngineRecord

    @property
    def title(self) -> str:
        """For people: runtime and precision."""
        return f"{self.record.runtime} {self.record.precision}"


def cache_folder() -> Path:
    """Where what only saves time is kept for this user: ``$XDG_CACHE_HOME/calibox``, or ``~/.cache/calibox``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calibox"


def engine_folder(bundle: Path, runtime: Runtime, precision: Precision) -> Path:
    """Where a bundle keeps an engine."""
    return bundle / ENGINES_FOLDER / runtime / precision


def find_engines(bundle: Bundle) -> list[Path]:
    """Folders of a bundle's engines, by runtime and precision."""
    found = (path.parent for path in (bundle.folder / ENGINES_FOLDER).glob(f"*/*/{RECORD_FILE}"))
    return sorted(folder for folder in found if not folder.name.startswith("."))  # what is still being written


def read_engine(bundle: Bundle, folder: Path) -> BuiltEngine:
    """An engine that was built from this very bundle and is whole.

    Raises:
        EngineError: it is not.
    """
    mend = (
        f"build it again with `calibox build {bundle.folder} --engine {folder.parent.name} --precision {folder.name}`"
    )
    try:
        record = EngineRecord.model_validate_json((folder / RECORD_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise EngineError(
            f"{folder / RECORD_FILE} cannot be read as the record of an engine ({error}); {mend}"
        ) from error
    if record.model_sha256 != bundle.manifest.files[MODEL_FILE]:
        raise EngineError(f"the engine in {folder} was built from another {MODEL_FILE} than the bundle's; {mend}")
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != expected:
            raise EngineError(f"{path} is missing or not the file that {RECORD_FILE} describes; {mend}")
    return BuiltEngine(folder, record)


@contextmanager
def new_engine(destination: Path) -> Iterator[Path]:
    """A scratch folder that takes the place of ``destination`` when the block ends well."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    old = scratch.with_name(f"{scratch.name}-old")
    try:
        yield scratch
        scratch.chmod(0o755)
        if destination.exists():
            destination.rename(old)
        scratch.rename(destination)
    finally:
        for leftover in (scratch, old):
            shutil.rmtree(leftover, ignore_errors=True)


def write_record(folder: Path, record: EngineRecord) -> EngineRecord:
    """Writes ``record`` with the sha256 of the other files of the folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != RECORD_FILE)
    sealed = record.model_copy(update={"files": {name: sha256_of(folder / name) for name in names}})
    (folder / RECORD_FILE).write_text(sealed.model_dump_json(indent=2) + "\n")
    return sealed
