"""What a stream gives back."""

from dataclasses import dataclass

from calibox_client.errors import ApiError
from calibox_client.images import ImageInput
from calibox_client.results import Detections


@dataclass(frozen=True, slots=True)
class FrameAnswer:
    """One frame of a stream with what was found in it, or with the server's refusal of it.

    Attributes:
        number: of the frame, from 0; those of a live stream that were dropped are counted.
        image: the frame as it was given.
        found: what was found; None where the server refused the frame.
        error: why it refused the frame; None where it did not.
        dropped: how many frames before this one gave way to newer ones; 0 unless the stream is live.
    """

    number: int
    image: ImageInput
    found: Detections | None
    error: ApiError | None
    dropped: int

    @property
    def detections(self) -> Detections:
        """What was found.

        Raises:
            ApiError: the server refused the frame.
        """
        if self.found is not None:
            return self.found
        raise self.error or ApiError("the frame has no answer", status=0)
