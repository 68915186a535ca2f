"""README.md of a model repository: what is in it and the command that starts it. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calibox_core import __version__
from calibox_core.engines import EngineRecord
from calibox_core.manifest import Manifest
from calibox_export.triton.config import GraphFile, Shape


@dataclass(frozen=True, slots=True)
class Exported:
    """A graph's model as it was written."""

    graph: GraphFile
    shape: Shape
    record: EngineRecord | None = None  # of an engine of TensorRT
    plugin: str | None = None  # file beside it that Triton must load
    plugin_inside: bool = False  # whether the plan carries it

    @property
    def detect(self) -> str:
        """The model around it."""
        return f"{self.graph.model}_detect"


def start_line(one: Exported, version: str, folder: str = "/models") -> str:
    """The command that serves a graph and the model around it, with the repository at ``folder``."""
    options = [f"--model-repository={folder}", "--model-control-mode=explicit"]
    options += [f"--load-model={name}" for name in (one.graph.model, one.detect)]
    if one.plugin is not None:
        place = f"{folder}/{one.graph.model}/{version}/{one.plugin}"
        options.append(f"--backend-config=tensorrt,plugins={place}")
    if one.plugin_inside:
        options.append("--backend-config=tensorrt,version-compatible=true")
    return " \\\n    ".join(["tritonserver", *options])


def readme_of(manifest: Manifest, exported: Sequence[Exported]) -> str:
    """The whole file."""
    return "\n".join(_lines(manifest, exported)) + "\n"


def _lines(manifest: Manifest, exported: Sequence[Exported]) -> Iterator[str]:
    yield f"# {manifest.name}, version {manifest.version}, for Triton"
    yield ""
    yield f"Written by `calibox export --triton` {__version__}. How to ask it: docs/triton.md of calibox."
    yield ""
    yield "| model | runs | sha256 of the graph |"
    yield "|---|---|---|"
    for one in exported:
        graph, device = one.graph, one.shape.device.upper()
        place = f"`{graph.model}/{manifest.version}/{graph.file}`"
        yield f"| `{graph.model}` | {place} by {graph.backend} on the {device} | {graph.sha256} |"
        yield f"| `{one.detect}` | images for `{graph.model}`, by calibox | |"
    yield ""
    yield "Models `..._detect` need calibox in the Python of Triton, 3.11 or newer: `pip install 'calibox[server]'`."
    for one in exported:
        yield ""
        yield f"## {one.graph.model}"
        yield ""
        yield f"    {start_line(one, manifest.version)}".replace("\n", "\n    ")
        if one.record is not None:
            yield ""
            built = f"Built by TensorRT {one.record.runtime_version} for {', '.join(one.record.needs) or 'this GPU'}"
            yield f"{built}: Triton must bring the same version, and the GPU must be of that kind."
        if one.plugin_inside:
            yield ""
            yield "Its plan carries code (the plugin) that runs inside Triton: serve only what you built yourself."
