"""Frames of videos and cameras, read and written through OpenCV.

Frames are uint8 ``[H, W, 3]`` in RGB order, upright as the file says.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calibox_client.errors import MissingPackageError

_DEFAULT_RATE = 25.0  # frames per second of a source that does not say


class Film:
    """A video that is being read. Its frames may be fetched in another thread than the one that closes it.

    Args:
        source: a file or an address, or the index of a camera.
        every: of so many frames only the first is read.
        most: frames at most.

    Raises:
        OSError: it cannot be opened.
        MissingPackageError: OpenCV is not installed.
    """

    def __init__(self, source: str | int, *, every: int = 1, most: int | None = None) -> None:
        self._cv2 = _opencv()
        self._every, self._most = every, most
        self._lock = threading.Lock()
        self._capture = self._cv2.VideoCapture(source)
        if not self._capture.isOpened():
            what = f"the camera {source}" if isinstance(source, int) else f"the video {source}"
            raise OSError(f"{what} cannot be opened")
        rate = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        self.frames_per_second = rate if 0 < rate < 1000 else _DEFAULT_RATE  # some cameras say 0, some files nonsense

    @property
    def frame_count(self) -> int | None:
        """How many frames will come; None where that is not known."""
        count = int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        known = -(-count // self._every) if count > 0 else self._most
        return known if known is None or self._most is None else min(known, self._most)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The frames, until the video ends or is closed."""
        number = read = 0
        while read != self._most:
            with self._lock:
                if not self._capture.grab():
                    return
                found: tuple[bool, Any] = self._capture.retrieve() if number % self._every == 0 else (False, None)
            number += 1
            if found[0]:
                read += 1
                yield np.ascontiguousarray(found[1][..., ::-1])

    def close(self) -> None:
        """Waits for the frame that is being read, and lets go of the file or the camera."""
        with self._lock:
            self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FilmWriter:
    """A video that is being written, as MPEG-4; whole or, when nothing was written, not at all.

    It appears under its name when it is closed, also after an error: what was drawn until then is of use.

    Args:
        path: where; None writes nothing.
        frames_per_second: of the video.
    """

    def __init__(self, path: Path | None, frames_per_second: float) -> None:
        self._path = path
        self._rate = frames_per_second
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, frame: Image.Image | NDArray[np.uint8], times: int = 1) -> None:
        """Appends a frame so many times; one of another size is fitted to that of the first.

        Raises:
            OSError: the file cannot be written.
        """
        if self._path is None:
            return
        picture = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
        if self._writer is None:
            self._open(picture.size)
        pixels = np.asarray(picture if picture.size == self._size else picture.resize(self._size))
        for _ in range(times):
            self._writer.write(np.ascontiguousarray(pixels[..., ::-1]))

    def _open(self, size: tuple[int, int]) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        cv2 = _opencv()
        self._size = size
        self._writer = cv2.VideoWriter(str(self._scratch), cv2.VideoWriter_fourcc(*"mp4v"), self._rate, size)
        if not self._writer.isOpened():
            raise OSError(f"{self._path} cannot be written as a video")

    @property
    def _scratch(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f".{self._path.stem}.part.mp4")

    def close(self) -> None:
        """Ends the video and gives it its name."""
        if self._writer is not None and self._path is not None:
            self._writer.release()
            self._scratch.replace(self._path)
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(
            "videos and cameras need the package opencv-python-headless; install it with: pip install 'calibox[video]'"
        ) from error
    if not hasattr(cv2, "VideoCapture"):  # as where an image compiles its own
        raise MissingPackageError(
            "this OpenCV was compiled without videos and cameras; use the package opencv-python-headless in another "
            "environment: pip install 'calibox[video]'"
        )
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what cannot be opened is told by us
    return cv2
