import pytest
import torch

from calibox_training import machine
from calibox_training.machine import RunError, device_type, require_compiler, require_precision


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "wanted"),
    [
        ("auto", True, False, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("gpu", True, False, "cuda"),
        ("cpu", True, True, "cpu"),
        ("cuda", True, False, "cuda"),
    ],
)
def test_the_device_is_the_one_lightning_takes(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, cuda: bool, mps: bool, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert device_type(accelerator) == wanted


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "said"),
    [
        ("gpu", False, False, "sees no such device; take cpu or auto"),
        ("cuda", False, True, "sees no such device"),
        ("mps", True, False, "sees no such device"),
        ("tpu", True, False, "must be one of auto, cpu, gpu, cuda, mps, got tpu"),
    ],
)
def test_a_device_that_is_not_here_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, cuda: bool, mps: bool, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    with pytest.raises(RunError, match=said):
        device_type(accelerator)


def test_half_precision_on_a_cpu_is_refused_with_what_to_take_instead() -> None:
    with pytest.raises(RunError, match="bf16-mixed or 32-true"):
        require_precision("16-mixed", "cpu")
    require_precision("16-mixed", "cuda")
    require_precision("bf16-mixed", "cpu")


def test_a_compiler_that_is_missing_is_a_sentence_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: object) -> object:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand a long list of what was tried")

    monkeypatch.setattr(machine.torch, "compile", fail)
    with pytest.raises(
        RunError, match=r"cannot work here: InvalidCxxCompiler: No working C\+\+ compiler found"
    ) as caught:
        require_compiler("cpu")
    assert "leave --compile out" in str(caught.value)
    assert "\n" not in str(caught.value)
