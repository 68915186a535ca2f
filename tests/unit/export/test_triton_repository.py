"""`calibox export --triton`: what is written, held against Triton's own description of config.pbtxt and the graph."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from calibox_core.bundle import Bundle, read_bundle, sha256_of
from calibox_core.engines import EngineError
from calibox_export.engines.tensorrt_plan import PLUGIN_FILE
from calibox_export.errors import ExportError
from calibox_export.kernels.library import FOLDER_VARIABLE
from calibox_export.triton.config import SETTINGS
from calibox_export.triton.pbtxt import Word, map_of, text_of
from calibox_export.triton.repository import LOADED_PLUGIN, write_repository
from calibox_export.triton.run import layout_of
from calibox_server.parameters import KNOWN
from tests.support.bundles import make_tiny_bundle
from tests.support.command_line import CommandLine
from tests.support.fake_tensorrt import write_engine
from tests.support.fake_triton import read_config
from tests.support.guide import blocks

KINDS = {"tensor(uint8)": "TYPE_UINT8", "tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32"}
LAYOUT = layout_of("cpu", 2, 8)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path / "models"))


@pytest.fixture
def calibox(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def tensors(config: Any, side: str) -> dict[str, tuple[str, list[Any]]]:
    """Type and shape of the graph's tensors as a configuration means them, the batch in front."""
    found = {}
    for tensor in getattr(config, side):
        dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
        found[tensor.name] = (model_config_pb2.DataType.Name(tensor.data_type), ["batch", *dims])
    return found


def add_engine(bundle: Bundle, **changes: Any) -> Bundle:
    write_engine(bundle.folder, bundle.manifest, model_sha256=bundle.manifest.files["model.onnx"], **changes)
    return bundle


def test_the_text_form_of_every_kind_of_field_is_read_back() -> None:
    message = {
        "name": 'a "quoted" näme',
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": Word("TYPE_FP32"), "dims": [1, -1], "optional": True, "reshape": {}}],
        "output": [],
        "parameters": map_of({"key": {"string_value": "value"}}),
    }
    read = text_format.Parse(text_of(message), model_config_pb2.ModelConfig())
    assert (read.name, read.max_batch_size, len(read.output)) == ('a "quoted" näme', 8, 0)
    (tensor,) = read.input
    assert (tensor.data_type, list(tensor.dims), tensor.optional) == (model_config_pb2.TYPE_FP32, [1, -1], True)
    assert tensor.HasField("reshape")
    assert read.parameters["key"].string_value == "value"


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_graphs_model_has_the_graphs_tensors(device: Any, bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "triton", layout_of(device, 2, 8))
    config = read_config(tmp_path / "triton/tiny")
    session = onnxruntime.InferenceSession(tmp_path / "triton/tiny/1/model.onnx")
    for side, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        said = tensors(config, side)
        assert set(said) == {node.name for node in nodes}
        for node in nodes:
            kind, shape = said[node.name]
            assert kind == KINDS[node.type]
            # The graph leaves some sizes free; what it says must be what the configuration says.
            assert len(node.shape) == len(shape), node.name
            assert all(
                one == other for one, other in zip(node.shape[1:], shape[1:], strict=True) if isinstance(one, int)
            )
    assert (config.name, config.backend, config.default_model_filename) == ("tiny", "onnxruntime", "model.onnx")
    (group,) = config.instance_group
    kind = model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)
    preferred = list(config.dynamic_batching.preferred_batch_size)
    assert (config.max_batch_size, group.count) == (8, 2)
    assert (kind, preferred) == {"cpu": ("KIND_CPU", [1]), "gpu": ("KIND_GPU", [4, 8])}[device]
    assert [warm.batch_size for warm in config.model_warmup] == {"cpu": [1], "gpu": [1, 4, 8]}[device]
    assert all(set(warm.inputs) == set(tensors(config, "input")) for warm in config.model_warmup)


def test_on_a_cpu_a_run_has_one_thread_and_on_a_gpu_no_tf32(bundle: Bundle, tmp_path: Path) -> None:
    for device in ("cpu", "gpu"):
        write_repository(bundle, tmp_path / device, layout_of(device, None, 4))
    on_cpu, on_gpu = (read_config(tmp_path / device / "tiny") for device in ("cpu", "gpu"))
    threads = {key: value.string_value for key, value in on_cpu.parameters.items()}
    assert threads == {"intra_op_thread_count": "1", "inter_op_thread_count": "1"}
    (accelerator,) = on_gpu.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})


def test_the_model_around_it_takes_an_image_and_every_setting_of_the_server_that_triton_has_not(
    bundle: Bundle, tmp_path: Path
) -> None:
    write_repository(bundle, tmp_path / "triton", LAYOUT)
    config = read_config(tmp_path / "triton/tiny_detect")
    optional = {tensor.name: tensor.optional for tensor in config.input}
    assert optional == {"image": False, **dict.fromkeys(SETTINGS, True)}
    # Triton names models and has times and priorities of its own; tiles are for `calibox serve`.
    elsewhere = {"model", "version", "tile", "overlap", "priority", "timeout_ms"}
    assert set(KNOWN) == set(SETTINGS) | elsewhere
    assert (config.backend, config.instance_group[0].count) == ("python", 3)
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.allow_timeout_override) == (128, True)
    assert policy.default_timeout_microseconds == 10_000_000
    about = {key: value.string_value for key, value in config.parameters.items()}
    graph = tmp_path / "triton" / about["graph"] / about["graph_version"] / about["graph_file"]
    assert about["graph_sha256"] == sha256_of(graph) == bundle.manifest.files["model.onnx"]


def test_a_repository_holds_these_files_and_triton_takes_each_folder_for_a_model(
    bundle: Bundle, tmp_path: Path
) -> None:
    write_repository(bundle, tmp_path / "triton", LAYOUT)
    files = sorted(
        str(path.relative_to(tmp_path / "triton")) for path in tmp_path.rglob("triton/**/*") if path.is_file()
    )
    assert files == [
        "README.md",
        "tiny/1/model.onnx",
        "tiny/config.pbtxt",
        "tiny_detect/1/manifest.json",
        "tiny_detect/1/model.py",
        "tiny_detect/config.pbtxt",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    readme = (tmp_path / "triton/README.md").read_text()
    assert "--load-model=tiny \\\n        --load-model=tiny_detect" in readme
    assert bundle.manifest.files["model.onnx"] in readme


def test_an_engine_of_tensorrt_gets_models_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    add_engine(bundle)
    write_repository(bundle, tmp_path / "triton", LAYOUT)
    config = read_config(tmp_path / "triton/tiny_tensorrt_fp16")
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == "KIND_GPU"
    assert "candidate_boxes" in tensors(config, "output")  # TensorRT writes each output or runs nothing
    plan = tmp_path / "triton/tiny_tensorrt_fp16/1/model.plan"
    assert plan.read_bytes() == (bundle.folder / "engines/tensorrt/fp16/model.plan").read_bytes()
    about = read_config(tmp_path / "triton/tiny_tensorrt_fp16_detect").parameters
    assert (about["graph"].string_value, about["graph_sha256"].string_value) == ("tiny_tensorrt_fp16", sha256_of(plan))
    readme = (tmp_path / "triton/README.md").read_text()
    assert "for sm_90: Triton must bring the same version" in readme
    assert "--backend-config" not in readme


def test_a_plugin_lies_where_the_start_line_says(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engine(bundle, plugin="beside")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kernels"))
    (tmp_path / "kernels").mkdir()
    with pytest.raises(ExportError, match=rf"needs its plugin, and Triton loads it as .*{LOADED_PLUGIN}, which is not"):
        write_repository(bundle, tmp_path / "triton", LAYOUT)
    assert not (tmp_path / "triton").exists()
    (tmp_path / "kernels" / LOADED_PLUGIN).write_bytes(b"registers itself")
    write_repository(bundle, tmp_path / "triton", LAYOUT)
    place = f"tiny_tensorrt_fp16/1/{LOADED_PLUGIN}"
    assert (tmp_path / "triton" / place).read_bytes() == b"registers itself"
    assert f"--backend-config=tensorrt,plugins=/models/{place}" in (tmp_path / "triton/README.md").read_text()


def test_a_plan_that_carries_its_plugin_is_started_as_such(bundle: Bundle, tmp_path: Path) -> None:
    add_engine(bundle, plugin="inside", plugin_sha256="1" * 64)
    write_repository(bundle, tmp_path / "triton", LAYOUT)
    readme = (tmp_path / "triton/README.md").read_text()
    assert "--backend-config=tensorrt,version-compatible=true" in readme
    assert "serve only what you built yourself" in readme
    assert PLUGIN_FILE not in readme


def test_engines_that_triton_does_not_run_stay_where_they_are(bundle: Bundle, tmp_path: Path) -> None:
    add_engine(bundle, runtime="tensorrt-rtx")
    write_repository(bundle, tmp_path / "triton", LAYOUT)
    assert sorted(path.name for path in (tmp_path / "triton").iterdir() if path.is_dir()) == ["tiny", "tiny_detect"]


def test_nothing_is_overwritten_and_nothing_stays_of_what_failed(bundle: Bundle, tmp_path: Path) -> None:
    add_engine(bundle)
    plan = bundle.folder / "engines/tensorrt/fp16/model.plan"
    plan.write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"model\.plan is missing or not the file"):
        write_repository(bundle, tmp_path / "triton", LAYOUT)
    shutil.rmtree(bundle.folder / "engines")
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton/mine").write_text("kept")
    with pytest.raises(ExportError, match="triton exists; name a folder that is not there yet"):
        write_repository(bundle, tmp_path / "triton", LAYOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "triton"]
    assert (tmp_path / "triton/mine").read_text() == "kept"


def test_the_guides_command_works(tmp_path: Path, calibox: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_bundle(tmp_path / "models", name="bccd")
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("triton.md", "bash", "")
    first, *_ = commands.splitlines()
    done = calibox(*shlex.split(first)[1:])
    assert (done.code, done.err) == (0, "")
    assert read_config(tmp_path / "triton/bccd_detect").name == "bccd_detect"


def test_the_command_makes_a_repository_of_a_bundle_without_torch(
    bundle: Bundle, tmp_path: Path, calibox: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    words = ("--triton-instances", 3, "--triton-max-batch", 2)
    done = calibox("export", "--triton", tmp_path / "triton", "--bundle", bundle.folder.parent, *words)
    assert (done.code, done.err) == (0, "")
    assert f"--model-repository={tmp_path / 'triton'}" in done.out
    config = read_config(tmp_path / "triton/tiny")
    assert (config.instance_group[0].count, config.max_batch_size) == (3, 2)
    again = calibox("export", "--triton", tmp_path / "triton", "--bundle", bundle.folder)
    assert (again.code, "exists; name a folder that is not there yet" in again.err) == (1, True)


@pytest.fixture
def wrong_usages(bundle: Bundle, tmp_path: Path) -> dict[str, tuple[str, list[Any]]]:
    make_tiny_bundle(tmp_path / "models", version="2")
    (tmp_path / "empty").mkdir()
    target = ["--triton", tmp_path / "triton"]
    return {
        "nothing": ("name what to export", []),
        "a bundle alone": ("name what to export", ["--bundle", bundle.folder]),
        "both": ("name what to export", ["model.ckpt", "--bundle", bundle.folder, *target]),
        "two versions": ("holds 2 bundles; name one version", ["--bundle", bundle.folder.parent, *target]),
        "no bundle": ("is not a bundle: manifest.json cannot be read", ["--bundle", tmp_path / "empty", *target]),
    }


@pytest.mark.parametrize("what", ["nothing", "a bundle alone", "both", "two versions", "no bundle"])
def test_wrong_usage_is_one_sentence(
    what: str, wrong_usages: dict[str, tuple[str, list[Any]]], tmp_path: Path, calibox: CommandLine
) -> None:
    sentence, words = wrong_usages[what]
    done = calibox("export", *words)
    assert (done.code, sentence in done.err) == (1, True), done.err
    assert not (tmp_path / "triton").exists()
