"""Which engine serves: by name, by measurement, by memory, or the ONNX file where nothing else can."""

from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import EngineError
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.openvino_ir import OpenVinoBackend
from calibox_server import engine_choice
from calibox_server.choice_cache import ChoiceCache
from calibox_server.engine import Engine, EngineInput, EngineOutput
from calibox_server.engine_choice import EngineOpener, best, images_per_second
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.openvino_engine import OpenVinoEngine
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle

Rate = Callable[[Engine], float]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path / "models"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines that were measured; OpenVINO is made out to be twice as fast."""
    names: list[str] = []

    def rate(engine: Engine, _: object) -> float:
        names.append(engine.name)
        return 20.0 if isinstance(engine, OpenVinoEngine) else 10.0

    monkeypatch.setattr(engine_choice, "images_per_second", rate)
    return names


def opener(tmp_path: Path, **settings: object) -> EngineOpener:
    return EngineOpener(Settings(**settings), ChoiceCache(tmp_path / "cache" / "engines.json"))


def test_without_built_engines_auto_serves_the_onnx_file_unmeasured(
    bundle: Bundle, tmp_path: Path, measured: list[str]
) -> None:
    assert isinstance(opener(tmp_path)(bundle), OnnxRuntimeEngine)
    assert measured == []


def test_auto_takes_the_faster_one_says_why_and_remembers(bundle: Bundle, tmp_path: Path, measured: list[str]) -> None:
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    with capture_logs() as logs:
        assert isinstance(opener(tmp_path)(bundle), OpenVinoEngine)
        assert isinstance(opener(tmp_path)(bundle), OpenVinoEngine)
    assert len(measured) == 2  # the second start asked nobody
    assert [line["remembered"] for line in logs] == [False, True]
    assert sorted(logs[0]["images_per_second"].values()) == [10.0, 20.0]
    assert isinstance(opener(tmp_path, instances=3)(bundle), OpenVinoEngine)
    assert len(measured) == 4  # other settings, other rates


def test_an_engine_of_another_model_leaves_auto_the_onnx_file(
    bundle: Bundle, tmp_path: Path, measured: list[str]
) -> None:
    built = build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    (built.folder / "model.bin").write_bytes(b"other weights")
    with capture_logs() as logs:
        assert isinstance(opener(tmp_path)(bundle), OnnxRuntimeEngine)
    assert logs[0]["event"] == "engine_unusable"
    assert "calibox build" in logs[0]["reason"]


def test_a_named_engine_that_is_not_there_falls_back_or_fails_as_configured(bundle: Bundle, tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert isinstance(opener(tmp_path, engine="openvino")(bundle), OnnxRuntimeEngine)
    assert logs[0]["event"] == "engine_fallback"
    with pytest.raises(EngineError, match=r"no engine for openvino in precision bf16: build one with `calibox build"):
        opener(tmp_path, engine="openvino", precision="bf16", engine_fallback=False)(bundle)


def test_a_named_engine_is_taken_whatever_its_speed(bundle: Bundle, tmp_path: Path) -> None:
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    assert isinstance(opener(tmp_path, engine="openvino")(bundle), OpenVinoEngine)
    assert isinstance(opener(tmp_path, engine="onnxruntime")(bundle), OnnxRuntimeEngine)


def test_an_unwritable_cache_is_no_error(bundle: Bundle, tmp_path: Path, measured: list[str]) -> None:
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    (tmp_path / "file").write_text("not a folder")
    assert isinstance(EngineOpener(Settings(), ChoiceCache(tmp_path / "file" / "engines.json"))(bundle), OpenVinoEngine)
    (tmp_path / "broken.json").write_text("{")
    assert ChoiceCache(tmp_path / "broken.json").read(["key"], ["a"]) is None


def test_the_onnx_file_stays_unless_another_is_clearly_faster() -> None:
    assert best({"onnx": 10.0, "other": 10.4}, first="onnx") == "onnx"
    assert best({"onnx": 10.0, "other": 11.0}, first="onnx") == "other"


def test_rates_count_the_images_of_every_run(bundle: Bundle) -> None:
    class Counted:
        name, max_batch, instances, in_flight = "counted", 4, 2, 2

        def run(self, batch: EngineInput) -> EngineOutput:
            assert len(batch.images) in (1, 4)
            return EngineOutput(*[batch.fusion] * 6)

    ticks = iter([0.0, *[2.0] * 100])
    # Each of two threads makes one run of four images, and the clock says that two seconds went by.
    assert images_per_second(Counted(), bundle.manifest, clock=lambda: next(ticks)) == pytest.approx(4.0)
