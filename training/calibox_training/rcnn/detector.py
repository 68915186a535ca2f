"""A two-stage detector: backbone, FPN, proposals, box heads, and IoU-Net's branch where the recipe has one.

Letters: B images, R (box, class) pairs or boxes of all images, C classes, G objects (padded).
"""

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from calibox_training.iou_net.features import Levels, outputs_of_boxes
from calibox_training.iou_net.jitter import jittered_boxes
from calibox_training.iou_net.predictor import IouPredictor, output_of_class, predicted_iou, predictor_loss
from calibox_training.iou_net.prroi_pool import flatten_maps
from calibox_training.iou_net.systems import CANDIDATE_FLOOR, Candidates
from calibox_training.iou_net.windows import Maps
from calibox_training.models.backbones import MAP_NAMES, build_backbone
from calibox_training.models.detector import NORMALISATIONS, normalised
from calibox_training.models.heads import group_norm
from calibox_training.objects import Objects
from calibox_training.rcnn.cascade import CascadeHeads
from calibox_training.rcnn.heads import BoxHeads, MaskHeads, Pyramid, Size
from calibox_training.rcnn.spec import RcnnSpec
from calibox_training.rcnn.targets import ProposalNetwork, targets_of

POOLED_LEVELS = Levels(2, 5)  # of boxes, as FPN has it
_NORMS = {"none": None, "group": group_norm, "batch": nn.BatchNorm2d}


class RcnnDetector(nn.Module):
    """Names of its parts are torchvision's, so that its weights fit.

    Where no gradient is wanted, call its methods under ``torch.no_grad``; without training mode they draw nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: RcnnSpec, *, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.classes = classes
        self.backbone, channels = build_backbone(spec, finest="c2")
        self.fpn = FeaturePyramidNetwork(channels, spec.fpn_channels, LastLevelMaxPool(), _NORMS[spec.norm])
        self.rpn = ProposalNetwork(spec)
        self.roi_heads = _heads(spec, classes)
        self.predictor = (
            None
            if spec.iou_branch is None
            else IouPredictor(spec.iou_branch.predictor, features=spec.fpn_channels, classes=classes)
        )
        for name, values in zip(("mean", "std"), NORMALISATIONS[spec.normalisation], strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "RcnnDetector":
        """Keeps the backbone's statistics fixed when the recipe says so."""
        super().train(mode)
        if self.spec.frozen_statistics:
            self.backbone.eval()
        return self

    def pyramid(self, images: Tensor) -> Pyramid:
        """P2 to P6 of uint8 RGB images ``[B, H, W, 3]``, float32 whatever the autocast: boxes are pixels from here."""
        maps: Pyramid = self.fpn(self.backbone(normalised(images, self.mean, self.std)))
        return {name: level.float() for name, level in maps.items()}

    def losses(
        self, images: Tensor, objects: Objects, generator: torch.Generator, masks_BGHW: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Scalars by name, to be summed; needs training mode.

        Args:
            images: uint8 ``[B, H, W, 3]``.
            objects: in their pixels.
            generator: on the CPU, of the branch's boxes; which proposals are sampled is torch's global generator's.
            masks_BGHW: uint8, the objects' pixels; Mask R-CNN needs them.
        """
        pyramid, size = self.pyramid(images), _size(images)
        with torch.autocast(images.device.type, enabled=False):
            targets = targets_of(objects, masks_BGHW)
            proposals, losses = self.rpn(_image_list(images), pyramid, targets)
            return {
                **losses,
                **self.roi_heads.losses(pyramid, proposals, targets, size),
                **self._branch_loss(pyramid, objects, size, generator),
            }

    def _branch_loss(
        self, pyramid: Pyramid, objects: Objects, size: Size, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """IoU-Net's, over jittered objects and never over proposals; its gradient reaches the backbone."""
        if self.predictor is None or self.spec.iou_branch is None:
            return {}
        height, width = size
        boxes = jittered_boxes(objects, self.spec.iou_branch.jitter, height=height, width=width, generator=generator)
        outputs_RC = self.outputs(self.maps(pyramid), boxes.boxes_R4, boxes.image_R)
        weight = self.spec.iou_branch.predictor.loss_weight
        return {"loss_iou": predictor_loss(outputs_RC, boxes.label_R, boxes.iou_R, weight=weight)}

    def maps(self, pyramid: Pyramid) -> Maps:
        """P2 to P5, as boxes are pooled from them."""
        return flatten_maps([pyramid[name] for name in MAP_NAMES])

    def outputs(self, maps: Maps, boxes_R4: Tensor, image_R: Tensor) -> Tensor:
        """The branch's raw outputs ``[R, C]``; needs the branch."""
        assert self.predictor is not None
        return outputs_of_boxes(self.predictor, maps, boxes_R4, image_R, POOLED_LEVELS)

    def candidates(self, pyramid: Pyramid, images: Tensor) -> Candidates:
        """Every (box, class) pair with p above the floor, before NMS, image by image; needs eval mode."""
        proposals, _ = self.rpn(_image_list(images), pyramid)
        boxes_RC4, p_RC = self.roi_heads.scored(pyramid, proposals, _size(images))
        row_R, label_R = (p_RC > CANDIDATE_FLOOR).nonzero(as_tuple=True)
        counts = torch.tensor([len(boxes) for boxes in proposals], device=p_RC.device)
        image_R = torch.arange(len(proposals), device=p_RC.device).repeat_interleave(counts)
        return Candidates(boxes_RC4[row_R, label_R], label_R, p_RC[row_R, label_R], image_R[row_R])

    def regressed(self, pyramid: Pyramid, images: Tensor, found: Candidates) -> Candidates:
        """The same pairs in their order, their boxes put through the (last) box head once more."""
        by_image_R = found.image_R.argsort(stable=True)  # torchvision pools image by image
        counts = torch.bincount(found.image_R, minlength=len(images)).tolist()
        boxes = torch.split(found.boxes_R4[by_image_R], counts)
        moved_R4 = self.roi_heads.regressed(pyramid, boxes, found.label_R[by_image_R], _size(images))
        return found._replace(boxes_R4=moved_R4[by_image_R.argsort()])

    def localization(self, pyramid: Pyramid, found: Candidates) -> Tensor:
        """Predicted IoU ``[R]`` of each pair in 0..1; 1 without the branch."""
        if self.predictor is None:
            return torch.ones_like(found.p_R)
        outputs_RC = self.outputs(self.maps(pyramid), found.boxes_R4, found.image_R)
        return predicted_iou(output_of_class(outputs_RC, found.label_R))


def _heads(spec: RcnnSpec, classes: int) -> BoxHeads:
    kind: type[BoxHeads] = {"faster": BoxHeads, "cascade": CascadeHeads, "mask": MaskHeads}[spec.detector]
    return kind(spec, classes=classes)


def _size(images: Tensor) -> Size:
    return images.shape[1], images.shape[2]


def _image_list(images: Tensor) -> ImageList:
    """What torchvision's parts ask for the images' size; they read no pixel."""
    return ImageList(images.permute(0, 3, 1, 2), [_size(images)] * len(images))
