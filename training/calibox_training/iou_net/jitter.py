"""Training boxes of IoU-Net's predictor: displaced objects whose IoU with the object is uniform.

Source: IoU-Net, arXiv 1807.11590, section 3.1: transform every object at random, drop what has an IoU below 0.5, and
sample uniformly by IoU. Here no box is dropped: each has a direction in which its edges move and an IoU that it shall
have, and bisection finds how far it moves. The IoUs are one from each of K equal steps between the bound and 1, so
that their distribution is exact whatever the objects.

Letters: B images, G objects (padded), K boxes per image, R boxes of all images together.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from calibox_training.box_coder import aligned_iou, area
from calibox_training.iou_net.spec import JitterSpec
from calibox_training.objects import Objects

# Halvings of the interval; float32 has 24 bits.
BISECTIONS = 26
# How far edges move at most: inward by this share of the side, outward by 1999 sides. Either leaves an IoU below 0.001.
FARTHEST = 0.9995


class JitteredBoxes(NamedTuple):
    """Boxes near objects, image by image; images without an object have none."""

    boxes_R4: Tensor  # float32, inside the image, in its pixels
    image_R: Tensor  # int64
    label_R: Tensor  # int64 class of the object
    iou_R: Tensor  # with the object, in least_iou..1


@torch.no_grad()
def jittered_boxes(
    objects: Objects, spec: JitterSpec, *, height: int, width: int, generator: torch.Generator
) -> JitteredBoxes:
    """K boxes for each image with an object, spread evenly over its objects.

    Crowd regions, padding and what has no area inside the image are no objects. What is drawn depends on the
    generator and on the shapes alone, so that images do not influence one another.

    Args:
        objects: of a batch, on any device.
        spec: K and the bound of the IoU.
        height, width: of the image in pixels; objects and boxes are cut to it.
        generator: on the CPU.
    """
    device, bounds = objects.boxes_BG4.device, objects.boxes_BG4.new_tensor([width, height, width, height])
    boxes_BG4 = objects.boxes_BG4.clamp(min=0).minimum(bounds)
    real_BG = (objects.labels_BG >= 0) & ~objects.crowd_BG & (area(boxes_BG4) > 0)
    images, most = real_BG.shape[0], spec.per_image
    order_BK, direction_BK4, iou_BK = _draws(images, spec, generator)
    # The real objects of an image take turns, in an order that has nothing to do with the IoU.
    first_BG = real_BG.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    count_B1 = real_BG.sum(dim=1, keepdim=True)
    drawn_BK = (count_B1 > 0).expand(images, most)
    turn_BK = (order_BK.to(device) % count_B1.clamp(min=1))[drawn_BK]
    image_R = torch.arange(images, device=device)[:, None].expand(images, most)[drawn_BK]
    object_R = first_BG[image_R, turn_BK]
    source_R4 = boxes_BG4[image_R, object_R]
    found_R4 = _boxes_of_iou(source_R4, direction_BK4.to(device)[drawn_BK], iou_BK.to(device)[drawn_BK], bounds)
    return JitteredBoxes(found_R4, image_R, objects.labels_BG[image_R, object_R], aligned_iou(found_R4, source_R4))


def _draws(images: int, spec: JitterSpec, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Turns ``[B, K]``, directions ``[B, K, 4]`` with a largest entry of 1 or -1, and IoUs ``[B, K]``, one per step."""
    many = spec.per_image
    order_BK = torch.rand(images, many, generator=generator).argsort(dim=1)
    direction_BK4 = torch.rand(images, many, 4, generator=generator) * 2 - 1
    largest_BK1 = direction_BK4.abs().amax(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    step_BK = (torch.arange(many) + torch.rand(images, many, generator=generator)) / many
    return order_BK, direction_BK4 / largest_BK1, spec.least_iou + (1 - spec.least_iou) * step_BK


def _boxes_of_iou(source_R4: Tensor, direction_R4: Tensor, iou_R: Tensor, bounds_4: Tensor) -> Tensor:
    """Boxes along the directions whose IoU with their source is at least ``iou_R``, by less than the last bisection."""
    farthest_R = torch.full_like(iou_R, FARTHEST)
    reached_R = aligned_iou(_moved(source_R4, direction_R4, farthest_R, bounds_4), source_R4)
    # Where the image's edge stops the outward moves, all four go the other way: one goes inward as far as can be.
    direction_R4 = torch.where((reached_R >= iou_R)[:, None], -direction_R4, direction_R4)
    near_R, far_R = torch.zeros_like(iou_R), farthest_R
    for _ in range(BISECTIONS):
        middle_R = (near_R + far_R) / 2
        fits_R = aligned_iou(_moved(source_R4, direction_R4, middle_R, bounds_4), source_R4) >= iou_R
        near_R, far_R = torch.where(fits_R, middle_R, near_R), torch.where(fits_R, far_R, middle_R)
    return _moved(source_R4, direction_R4, near_R, bounds_4)


def _moved(source_R4: Tensor, direction_R4: Tensor, distance_R: Tensor, bounds_4: Tensor) -> Tensor:
    """Every edge moved by direction * d of its side inward, or direction * d / (1 - d) outward, and cut to the image.

    Alone, either move at full direction leaves an IoU of 1 - d: the law of the authors' code, with d = 1 - L.
    """
    inward_R1, outward_R1 = distance_R[:, None], (distance_R / (1 - distance_R))[:, None]
    share_R4 = torch.where(direction_R4 > 0, direction_R4 * outward_R1, direction_R4 * inward_R1)
    side_R4 = (source_R4[:, 2:] - source_R4[:, :2]).repeat(1, 2)
    sign_4 = torch.tensor([-1.0, -1, 1, 1], device=source_R4.device)
    return (source_R4 + sign_4 * share_R4 * side_R4).clamp(min=0).minimum(bounds_4)
