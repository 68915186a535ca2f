"""LED's loss on the samples that it mines by itself.

Letters: B images, A anchors, Q values per anchor, V the three overlaps.
"""

from torch import Tensor

from calibox_training.led.coding import loss_elements, value_range
from calibox_training.led.samples import mined_samples, object_overlaps
from calibox_training.objects import Objects
from calibox_training.processes import over_processes
from calibox_training.quality_spec import LedQuality


def led_loss(spec: LedQuality, raw_BAQ: Tensor, boxes_BA4: Tensor, objects: Objects, known_BA: Tensor) -> Tensor:
    """The six terms of L_LE, each divided by the number of its samples, and added up; a scalar.

    Its gradient reaches ``raw_BAQ`` alone: the boxes only tell what the true overlaps are.

    Args:
        spec: the branch.
        raw_BAQ: its output.
        boxes_BA4: decoded boxes in pixels.
        objects: ground truth of the batch.
        known_BA: bool, False where an anchor must teach nothing.
    """
    overlap_BAV = object_overlaps(boxes_BA4.detach(), objects.boxes_BG4, objects.labels_BG >= 0)
    elements = loss_elements(spec, raw_BAQ, overlap_BAV)
    # The four ranges are balanced whether the estimate is coarse to fine or not.
    kept_BAV = mined_samples(elements.coarse + elements.fine, value_range(overlap_BAV), known_BA)
    count_V = over_processes(kept_BAV.sum(dim=(0, 1)).float()).clamp(min=1.0)
    return (((elements.coarse + elements.fine) * kept_BAV).sum(dim=(0, 1)) / count_V).sum()
