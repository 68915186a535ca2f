"""True overlaps of the detections of a batch, and which of them LED learns from.

Letters: B images, G objects (padded), A anchors, V the three overlaps, K value ranges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from calibox_training.box_coder import area, batched_intersection
from calibox_training.led.coding import RANGE_EDGES

# LED keeps "around 3:1:1:1" of background, low, middle and high overlaps (section 2.4). The counts are decided here.
SHARES = (3, 1, 1, 1)
FEWEST = 16  # of a share, where an image has as many: one rare range must not silence the others


def object_overlaps(boxes_BA4: Tensor, objects_BG4: Tensor, real_BG: Tensor) -> Tensor:
    """IoD, IoG and IoU of every box with the object that it overlaps most by IoU, float32 ``[B, A, V]`` in 0..1.

    Args:
        boxes_BA4: decoded boxes in pixels, without a gradient.
        objects_BG4: objects of any class, padded.
        real_BG: bool, False on padding and crowd regions, which no box has for its object.

    Returns: 0 throughout where a box overlaps no object.
    """
    # A first row of nothing serves the boxes without an object, and images without any.
    common_BGA = F.pad(batched_intersection(objects_BG4, boxes_BA4) * real_BG[..., None], (0, 0, 1, 0))
    object_area_BG1 = F.pad(area(objects_BG4), (1, 0))[..., None]
    box_area_BA = area(boxes_BA4)
    union_BGA = object_area_BG1 + box_area_BA[:, None] - common_BGA
    iou_BA, best_BA = (common_BGA / union_BGA.clamp(min=1e-6)).max(dim=1)
    common_BA = common_BGA.gather(1, best_BA[:, None])[:, 0]
    object_area_BA = object_area_BG1[..., 0].gather(1, best_BA)
    shares = (common_BA / box_area_BA.clamp(min=1e-6), common_BA / object_area_BA.clamp(min=1e-6), iou_BA)
    return torch.stack(shares, dim=-1).clamp(max=1)


def mined_samples(loss_BAV: Tensor, range_BAV: Tensor, known_BA: Tensor) -> Tensor:
    """The hardest samples of every image, for each overlap by itself, at about 3:1:1:1 over the value ranges.

    A share is the size of the smallest foreground range that has samples at all, at least `FEWEST`; a range keeps its
    share or all it has. Ties go to the lower index.

    Args:
        loss_BAV: what samples are ranked by.
        range_BAV: int64, value range of the true overlap.
        known_BA: bool, False where an anchor must teach nothing.

    Returns: bool ``[B, A, V]``.
    """
    order_BAV = loss_BAV.detach().argsort(dim=1, descending=True, stable=True)
    member_BAVK = F.one_hot(range_BAV, len(RANGE_EDGES) + 1).bool() & known_BA[..., None, None]
    sorted_BAVK = member_BAVK.gather(1, order_BAV[..., None].expand_as(member_BAVK))
    rank_BAVK = sorted_BAVK.cumsum(dim=1)  # from 1, within the range
    kept_BAV = (sorted_BAVK & (rank_BAVK <= _quota(member_BAVK.sum(dim=1))[:, None])).any(dim=-1)
    return torch.zeros_like(kept_BAV).scatter(1, order_BAV, kept_BAV)


def _quota(size_BVK: Tensor) -> Tensor:
    """How many samples of each range an image keeps at most, ``[B, V, K]``."""
    foreground_BVK = size_BVK[..., 1:]
    most = foreground_BVK.amax(dim=-1, keepdim=True)  # stands in for empty ranges, so that they are never the smallest
    share_BV1 = torch.where(foreground_BVK > 0, foreground_BVK, most).amin(dim=-1, keepdim=True).clamp(min=FEWEST)
    return share_BV1 * torch.tensor(SHARES, device=size_BVK.device)
