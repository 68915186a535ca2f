"""torchvision backbones as feature extractors, and where their weights come from."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import BasicBlock, ResNet

from calibox_training.model_spec import BackboneSpec
from calibox_training.models.ssd_layers import Vgg16
from calibox_training.recipe import RecipeError

_RESNET = ("layer1", "layer2", "layer3", "layer4")
_REGNET = ("trunk_output.block1", "trunk_output.block2", "trunk_output.block3", "trunk_output.block4")
_RESNET_BLOCKS = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}
CLASSIFIERS = ("fc.", "classifier.")
MAP_NAMES = ("c2", "c3", "c4", "c5")
# The last layers at strides 4, 8, 16 and 32.
FEATURE_NODES = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "resnext101_32x8d": _RESNET,
    "resnext101_64x4d": _RESNET,
    "regnet_y_400mf": _REGNET,
    "regnet_y_800mf": _REGNET,
    "mobilenet_v3_large": ("features.3", "features.6", "features.12", "features.16"),
}


def build_backbone(spec: BackboneSpec, *, finest: Literal["c2", "c3"] = "c3") -> tuple[nn.Module, list[int]]:
    """The extractor of the maps from ``finest`` to C5 (vgg16: conv4_3, conv5_3), and their channel counts.

    Called with images it gives a dict of maps, finest first.

    Raises:
        RecipeError: weights that are unknown, cannot be read or do not fit.
    """
    body = Vgg16(width=spec.backbone_width) if spec.backbone == "vgg16" else _classifier(spec)
    load_backbone_weights(body, spec.backbone, spec.backbone_weights)
    if spec.backbone in FEATURE_NODES:
        nodes = dict(zip(FEATURE_NODES[spec.backbone], MAP_NAMES, strict=True))
        wanted = {node: name for node, name in nodes.items() if name >= finest}
        body = create_feature_extractor(body, return_nodes=wanted)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d) and spec.backbone_norm_epsilon is not None:
            module.eps = spec.backbone_norm_epsilon
    for name, parameter in body.named_parameters():
        if name.startswith(spec.frozen):
            parameter.requires_grad_(False)
    body.eval()
    with torch.no_grad():
        channels = [maps.shape[1] for maps in body(torch.zeros(1, 3, 64, 64)).values()]
    return body.train(), channels


class NarrowResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet of basic blocks with a fraction of the channels in every stage; the stem keeps its 64."""

    def __init__(self, blocks: list[int], *, width: float) -> None:
        self.width = width  # read while torchvision builds the stages
        super().__init__(BasicBlock, blocks)

    def _make_layer(self, block: type[Any], planes: int, *args: Any, **options: Any) -> nn.Sequential:
        layer: nn.Sequential = super()._make_layer(block, max(1, round(planes * self.width)), *args, **options)
        return layer


def _classifier(spec: BackboneSpec) -> nn.Module:
    if spec.backbone_width == 1:
        classifier: nn.Module = get_model(spec.backbone, weights=None)
        return classifier
    return NarrowResNet(_RESNET_BLOCKS[spec.backbone], width=spec.backbone_width)


def load_backbone_weights(classifier: nn.Module, backbone: str, source: str) -> None:
    """Fills a torchvision classifier's weights in place.

    Args:
        classifier: the torchvision model, with its classifying layers or without.
        backbone: its torchvision name.
        source: ``none``, a file with a state dict in torchvision's names, or a torchvision weights name
            (``DEFAULT``, ``IMAGENET1K_V2`` or ``ResNet50_Weights.IMAGENET1K_V2``), which may be downloaded.

    Raises:
        RecipeError: otherwise, with the known names or the keys that do not fit.
    """
    if source.lower() == "none":
        return
    state = _read_state(Path(source)) if Path(source).is_file() else _published_state(backbone, source)
    try:
        missing, unexpected = classifier.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes differ
        raise RecipeError(f"the weights {source} do not fit {backbone}: {error}") from error
    # The classifying layers play no part; torchvision's VGG features come with such layers full of NaN.
    lacking, unknown = ([key for key in keys if not key.startswith(CLASSIFIERS)] for keys in (missing, unexpected))
    if lacking or unknown:
        raise RecipeError(
            f"the weights {source} do not fit {backbone}: {len(lacking)} keys are missing ({', '.join(lacking[:3])}), "
            f"{len(unknown)} are unknown ({', '.join(unknown[:3])})"
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what its readers raise: pickle, zip, OS and runtime errors
        raise RecipeError(f"{path} cannot be read as a state dict: {error}") from error
    state = loaded.get("state_dict", loaded.get("model", loaded)) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RecipeError(f"{path} holds no state dict: expected tensors by name, as torchvision saves them")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _published_state(backbone: str, name: str) -> dict[str, Any]:
    weights = get_model_weights(backbone)
    member = name.rsplit(".", 1)[-1]
    if member not in weights.__members__ or (("." in name) and name.rsplit(".", 1)[0] != weights.__name__):
        known = ", ".join(f"{weights.__name__}.{m}" for m in weights.__members__)
        raise RecipeError(f"no weights {name} for {backbone}: give a file, `none`, or one of {known}")
    try:
        state: dict[str, Any] = weights[member].get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no connection; a file whose hash is another
        raise RecipeError(
            f"{weights[member].url} could not be downloaded ({error}); fetch it where that works and name the file"
        ) from error
    return state
