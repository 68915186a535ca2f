"""What building and serving share of NVIDIA's Python packages `tensorrt` and `tensorrt_rtx`; both have the same API."""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from calibox_core.engines import EngineError, Runtime

PLAN_FILE = "model.plan"
PLUGIN_FILE = "libcalibox_trt_plugins.so"  # lies beside the plan where it is not inside


class Package(NamedTuple):
    """How a runtime is called in Python."""

    module: str
    install: str  # what comes after pip install


PACKAGES: dict[Runtime, Package] = {
    "tensorrt": Package("tensorrt", "'calibox[gpu]'"),
    "tensorrt-rtx": Package("tensorrt_rtx", "'calibox[tensorrt-rtx]'"),
}


def import_package(runtime: Runtime) -> Any:
    """The package of a runtime.

    Raises:
        EngineError: it is not installed, or the libraries that it loads are not.
    """
    package = PACKAGES[runtime]
    try:
        return importlib.import_module(package.module)
    except ModuleNotFoundError as error:
        if error.name != package.module:
            raise _lacks_libraries(package, error) from error
        raise EngineError(
            f"{package.module} is not installed; install it with: pip install {package.install}"
        ) from error
    except (ImportError, OSError) as error:
        raise _lacks_libraries(package, error) from error


def _lacks_libraries(package: Package, error: Exception) -> EngineError:
    return EngineError(
        f"{package.module} is installed, but the libraries that it loads are not found ({error}); pip takes them from "
        f"NVIDIA's own index, which it must reach: pip install {package.install}"
    )


class ErrorTexts:
    """What TensorRT logged as an error since it was last asked; it tells reasons nowhere else."""

    def __init__(self, trt: Any) -> None:
        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.texts: list[str] = []

            def log(self, severity: Any, text: str) -> None:
                """Called from any thread. What is less than an error is dropped."""
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    self.texts.append(text)

        self.logger = Logger()

    def refusal(self, what: str) -> EngineError:
        """An error that says what was refused, and why."""
        said, self.logger.texts = reasons(self.logger.texts), []
        return EngineError(f"{what}: {'; '.join(said) or 'it gave no reason'}")


def reasons(texts: Sequence[str]) -> list[str]:
    """Each once, without what TensorRT-RTX says wherever there is no driver; it needs none to build."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line and "checkMacros.cpp::catchCudaError" not in line))
