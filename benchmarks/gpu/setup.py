"""What every step is told: whether the kernels run on a GPU or on the CPU, and where their libraries lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks.gpu.outcome import Outcome, write_outcome

if TYPE_CHECKING:
    from calibox_export.kernels.library import KernelLibrary
    from calibox_export.kernels.pooling import PoolingLibrary

Choice = TypeVar("Choice")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setup:
    """Of one call of the script."""

    host: bool  # the CPU, the kernels' host build, small sizes
    build: Path
    part: Path | None = None  # where a step's outcome goes, if it runs in a process of its own

    @property
    def device(self) -> str:
        """As torch names it."""
        return "cpu" if self.host else "cuda"

    @property
    def library(self) -> Path:
        """Made by the step ``build``."""
        return self.build / ("libcalibox_kernels_host.so" if self.host else "libcalibox_kernels.so")

    @property
    def replay(self) -> Path:
        """The program that runs calls from a file; made by the step ``build``."""
        return self.build / ("replay_host" if self.host else "replay")

    def kernels(self) -> "KernelLibrary":
        """CalibratedNMS."""
        from calibox_export.kernels.library import KernelLibrary

        return KernelLibrary(self.library)

    def pooling(self) -> "PoolingLibrary":
        """Precise RoI pooling."""
        from calibox_export.kernels.pooling import PoolingLibrary

        return PoolingLibrary(self.library)

    def stream(self) -> int:
        """The current stream as a cudaStream_t."""
        import torch

        return 0 if self.host else torch.cuda.current_stream().cuda_stream

    def keep(self, outcome: Outcome) -> None:
        """Stores what was found so far, in case that the step does not come to its end."""
        if self.part is not None:
            write_outcome(self.part, outcome)

    def pick(self, on_gpu: Choice, on_host: Choice) -> Choice:
        """A size for a GPU, or the small one by which the script is proved on a CPU."""
        return on_host if self.host else on_gpu
