"""Choices of `calibox calibrate`, apart so that its help needs no numpy."""

from enum import StrEnum


class Metric(StrEnum):
    """What rankings are compared by."""

    AP = "AP"
    AP50 = "AP50"
    AP75 = "AP75"
    AP90 = "AP90"
    OLRP = "oLRP"


class Means(StrEnum):
    """What a mapped score announces."""

    PRECISION = "precision"  # the share of right detections among those with this score
    IOU = "iou"  # their mean IoU with the object, 0 where there is none
    NONE = "none"  # scores stay as they are
