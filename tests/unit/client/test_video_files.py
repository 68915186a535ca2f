"""Videos where OpenCV is another than the wheel of PyPI."""

import cv2
import pytest

from calibox_client.errors import MissingPackageError
from calibox_client.video_files import Film


def test_an_opencv_without_videos_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "VideoCapture")
    with pytest.raises(MissingPackageError, match=r"without videos and cameras.*pip install 'calibox\[video\]'"):
        Film("film.mp4")
