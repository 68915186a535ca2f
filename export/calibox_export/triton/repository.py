"""A bundle as a model repository of Triton: its graph, its engines of TensorRT, and a model around each that decodes.

``<name>/<version>/model.onnx`` and ``<name>_detect`` around it; for each engine ``<name>_tensorrt_<precision>`` and its
``..._detect``. Everything is a copy, and each copy is held against the hash that the bundle has of it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from calibox_core.bundle import MANIFEST_FILE, MODEL_FILE, Bundle, new_folder, sha256_of
from calibox_core.engines import BuiltEngine, find_engines, read_engine
from calibox_core.errors import BundleError
from calibox_core.tensorrt_package import PLAN_FILE, PLUGIN_FILE
from calibox_export.errors import ExportError
from calibox_export.kernels.library import Device, library_path
from calibox_export.triton.config import GraphFile, Shape, detect_config, graph_config
from calibox_export.triton.pbtxt import Message, text_of
from calibox_export.triton.readme import Exported, readme_of

CONFIG_FILE, README_FILE = "config.pbtxt", "README.md"
# Triton only loads a plugin's library, so it takes the one that registers itself.
LOADED_PLUGIN = "libcalibox_trt_plugins_static.so"

# Nothing of the project's own is copied into a repository, so that the arithmetic is that of the installed version.
_DETECT_MODEL = '''"""Written by `calibox export --triton`; the package does the work: pip install 'calibox[server]'."""

from calibox_server.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True, slots=True)
class Layout:
    """How the models run; an engine of TensorRT needs a GPU whatever the ONNX file runs on."""

    onnx: Shape
    engine: Shape


def write_repository(bundle: Bundle, destination: Path, layout: Layout) -> list[Exported]:
    """Writes ``destination`` whole or not at all.

    Args:
        bundle: whose files were compared with its manifest.
        destination: folder that is not there yet.
        layout: how the models run.

    Returns: the graphs' models.

    Raises:
        ExportError: the destination exists, or the plugin that an engine needs is not found.
        EngineError: an engine of TensorRT was built from another graph or is damaged.
        BundleError: a file changed while it was copied.
    """
    if destination.exists():
        raise ExportError(f"{destination} exists; name a folder that is not there yet, or remove it first")
    engines = [read_engine(bundle, folder) for folder in find_engines(bundle) if folder.parent.name == "tensorrt"]
    with new_folder(destination) as scratch:
        exported = [_write_onnx(bundle, scratch, layout.onnx)]
        exported += [_write_engine(bundle, engine, scratch, layout.engine) for engine in engines]
        (scratch / README_FILE).write_text(readme_of(bundle.manifest, exported))
    return exported


def _write_onnx(bundle: Bundle, root: Path, shape: Shape) -> Exported:
    manifest = bundle.manifest
    graph = GraphFile(manifest.name, "onnxruntime", MODEL_FILE, manifest.files[MODEL_FILE])
    _write_models(bundle, graph, bundle.model_path, root, shape)
    return Exported(graph, shape)


def _write_engine(bundle: Bundle, engine: BuiltEngine, root: Path, shape: Shape) -> Exported:
    record = engine.record
    model = f"{bundle.manifest.name}_tensorrt_{record.precision}"
    graph = GraphFile(model, "tensorrt", PLAN_FILE, record.files[PLAN_FILE])
    _write_models(bundle, graph, engine.folder / PLAN_FILE, root, shape)
    if PLUGIN_FILE in record.files:
        shutil.copyfile(_loaded_plugin(engine), root / model / bundle.manifest.version / LOADED_PLUGIN)
    inside = record.plugin_sha256 is not None and PLUGIN_FILE not in record.files
    plugin = LOADED_PLUGIN if PLUGIN_FILE in record.files else None
    return Exported(graph, shape, record=record, plugin=plugin, plugin_inside=inside)


def _loaded_plugin(engine: BuiltEngine) -> Path:
    path = library_path(Device.CUDA).with_name(LOADED_PLUGIN)
    if not path.is_file():
        raise ExportError(
            f"{engine.folder} needs its plugin, and Triton loads it as {path}, which is not there: build it (cmake "
            "--preset cuda and cmake --build --preset cuda in trt_plugins), or put it inside the engine with "
            "`calibox build --embed-plugin`"
        )
    return path


def _write_models(bundle: Bundle, graph: GraphFile, source: Path, root: Path, shape: Shape) -> None:
    """A graph's model, and the one that decodes for it."""
    manifest = bundle.manifest
    version = _new_model(root / graph.model, graph_config(manifest, graph, shape), manifest.version)
    shutil.copyfile(source, version / graph.file)
    if sha256_of(version / graph.file) != graph.sha256:
        raise BundleError(f"{source} changed while it was copied; export once more")
    name = f"{graph.model}_detect"
    version = _new_model(root / name, detect_config(manifest, graph, shape, name=name), manifest.version)
    (version / "model.py").write_text(_DETECT_MODEL)
    shutil.copyfile(bundle.folder / MANIFEST_FILE, version / MANIFEST_FILE)


def _new_model(folder: Path, config: Message, version: str) -> Path:
    (folder / version).mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(text_of(config))
    return folder / version
