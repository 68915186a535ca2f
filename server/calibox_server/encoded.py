"""Work whose image is decoded by the thread that runs it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from calibox_core.letterbox import Letterbox
from calibox_server.engine_runner import Work
from calibox_server.parameters import Parameters
from calibox_server.slots import Slot

_NO_PIXELS = np.frombuffer(b"", np.uint8)  # a view of what is not ours: no pool takes it


@dataclass(slots=True, eq=False)
class Encoded(Work):
    """One image as it was sent; its slot is taken when the engine has time for it.

    So a queue of requests holds their bytes and not their pixels, and a request changes threads once less each way.
    """

    place: Callable[[], tuple[Slot, Letterbox]] = field(kw_only=True)
    letterbox: Letterbox | None = field(default=None, kw_only=True)  # once it is decoded

    @classmethod
    def of(
        cls, place: Callable[[], tuple[Slot, Letterbox]], parameters: Parameters, refine_steps: int, submitted: float
    ) -> "Encoded":
        """Args: what decodes it and raises ServiceError, and as `Work` has them."""
        return cls(_NO_PIXELS, parameters, refine_steps, submitted, place=place)

    def decode(self) -> None:
        """Raises ServiceError: as ``place``."""
        self.slot, self.letterbox = self.place()
