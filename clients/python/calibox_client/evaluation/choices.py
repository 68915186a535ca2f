"""Choices of `calibox eval`, apart so that its help needs no numpy."""

from enum import StrEnum


class Half(StrEnum):
    """Which images: whatever is chosen is chosen on the calibration half and reported on the test half."""

    ALL = "all"
    CALIBRATION = "calibration"
    TEST = "test"


class RankBy(StrEnum):
    """Which of the three scores orders the detections for average precision."""

    SCORE = "score"
    CLASSIFICATION_SCORE = "classification_score"
    LOCALIZATION_SCORE = "localization_score"
