"""VGG16 without its classifier, and the layers that SSD puts behind it: a trous fc6 and fc7, extra layers, L2Norm.

Letters: B images, F channels.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from calibox_training.model_spec import ModelSpec
from calibox_training.pyramid import extra_layers

CONV4_3 = 22  # number of its ReLU in torchvision's `features`
POOL3 = 16
FC_CHANNELS = 1024
FC6_DILATION = 6  # SSD, section 3.1, and its code
# Start of the learnt scale on conv4_3 (SSD, section 3.1) for its 512 channels; fewer share a smaller one.
L2_SCALE, L2_CHANNELS = 20.0, 512
NARROWEST = 8


def narrowed(channels: int, width: float) -> int:
    """Channels of a narrower layer."""
    return max(NARROWEST, round(channels * width))


class Vgg16(nn.Module):
    """torchvision's layers and names up to conv5_3; the third pooling rounds up, so that 300 pixels give 38."""

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        layers = [entry if entry == "M" else narrowed(int(entry), width) for entry in cfgs["D"]]
        self.features = make_layers(layers[:-1])  # SSD's own fifth pooling keeps the size
        self.features[POOL3].ceil_mode = True
        self.channels = [layer.out_channels for layer in (self.features[CONV4_3 - 1], self.features[-2])]
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's VGG
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of conv4_3 and conv5_3 behind their ReLU."""
        found: dict[str, Tensor] = {}
        for number, layer in enumerate(self.features):
            images = layer(images)
            if number == CONV4_3:
                found["conv4_3"] = images
        return found | {"conv5_3": images}


class SsdLayers(nn.Module):
    """What stands between VGG16 and the head. Weights start by Xavier's rule, as in the authors' code."""

    def __init__(self, spec: ModelSpec, channels: list[int]) -> None:
        super().__init__()
        fine, coarse = channels
        wide = narrowed(FC_CHANNELS, spec.backbone_width)
        self.scale = nn.Parameter(torch.full((fine,), L2_SCALE * math.sqrt(fine / L2_CHANNELS)))
        self.fc6 = nn.Conv2d(coarse, wide, 3, padding=FC6_DILATION, dilation=FC6_DILATION)
        self.fc7 = nn.Conv2d(wide, wide, 1)
        self.channels = [fine, wide]
        self.layers = nn.ModuleList()
        for layer in extra_layers(spec):
            inner, outer = (narrowed(count, spec.backbone_width) for count in (layer.inner, layer.channels))
            self.layers.append(
                nn.Sequential(
                    nn.Conv2d(self.channels[-1], inner, 1),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(inner, outer, layer.kernel, stride=layer.stride, padding=layer.padding),
                    nn.ReLU(inplace=True),
                )
            )
            self.channels.append(outer)
        self.apply(xavier)

    def forward(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """Maps ``[B, F, H, W]`` of all levels, finest first."""
        fine = self.scale.view(1, -1, 1, 1) * F.normalize(maps["conv4_3"], dim=1)
        level = F.max_pool2d(maps["conv5_3"], 3, stride=1, padding=1)
        level = F.relu(self.fc7(F.relu(self.fc6(level))))
        levels = [fine, level]
        for layer in self.layers:
            levels.append(layer(levels[-1]))
        return levels


def xavier(module: nn.Module) -> None:
    """Fresh weights of a convolution, its bias 0; nothing for other modules."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
