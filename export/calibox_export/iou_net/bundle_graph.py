"""The whole graph of a bundle with an IoU-Net: network, predicted IoU, CalibratedNMS, refinement."""

from collections.abc import Mapping, Sequence

import onnx
from onnx import compose, helper

from calibox_core.nms import NmsAttributes
from calibox_core.operator_names import OUTPUTS
from calibox_export.calibrated_nms import calibrated_nms_function, calibrated_nms_node
from calibox_export.graph import NETWORK_PREFIX, bundle_model, check_network, contract_inputs, prefixed_network
from calibox_export.iou_net.predictor_text import map_names
from calibox_export.iou_net.stage import predictor_stage, refine_stage
from calibox_training.iou_net.features import Levels
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.spec import RefinementSpec

PREDICTOR, REFINEMENT = "predictor/", "refinement/"
# What the operator says of the kept boxes before they are refined, by the names of the bundle's outputs.
_KEPT = {"boxes": "kept_boxes", "localization_scores": "kept_localization_scores"}


def bundle_graph(
    network: onnx.ModelProto,
    predictor: IouPredictor,
    levels: Levels,
    *,
    attributes: NmsAttributes,
    refinement: RefinementSpec,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Composes the graph of a bundle.

    Args:
        network: opset 20, inputs images uint8 ``[B, H, W, 3]`` (H and W fixed) and fusion float32 ``[B, 3]``, outputs
            boxes float32 ``[B, K, 4]`` (the candidates, few enough to be pooled one by one), p float32 ``[B, K, C]``,
            and the maps of the levels, ``map_0``, ..., float32 ``[B, F, H_l, W_l]``, finest first.
        predictor: for C classes and F features.
        levels: of the maps.
        attributes: of the CalibratedNMS, which ranks by the predicted IoU of each class as its q.
        refinement: how kept boxes move, and the most steps of a request.
        metadata: written into the file for readers that see only it.

    Returns:
        A checked model with the inputs of `contract_inputs` and the outputs of `contract_outputs`.

    Raises:
        ExportError: the network's inputs, outputs or opset are others.
    """
    maps = map_names(levels)
    height, width = check_network(network, outputs=("boxes", "p", *maps))
    before = predictor_stage(predictor, levels, height=height, width=width)
    after = refine_stage(predictor, levels, refinement, height=height, width=width)
    boxes, p = (NETWORK_PREFIX + name for name in ("boxes", "p"))
    found = {name: NETWORK_PREFIX + name for name in maps}
    suppression = calibrated_nms_node(
        attributes,
        inputs=[boxes, p, f"{PREDICTOR}q", "fusion", "score_threshold", "iou_threshold"],
        outputs=[_KEPT.get(name, name) for name in OUTPUTS],
    )
    kept = {"boxes": _KEPT["boxes"], "labels": "labels", "q": _KEPT["localization_scores"]}
    nodes = [
        *_stage_nodes(before, PREDICTOR, found | {"boxes": boxes, "p": p}),
        suppression,
        *_stage_nodes(after, REFINEMENT, found | kept | {"refine_steps": "refine_steps"}),
        helper.make_node("Identity", [f"{REFINEMENT}refined_boxes"], ["boxes"]),
        helper.make_node("Identity", [f"{REFINEMENT}refined_q"], ["localization_scores"]),
    ]
    return bundle_model(
        prefixed_network(network),
        nodes,
        # Both stages bring the same functions and the same weights.
        [*before.functions, calibrated_nms_function(attributes, quality_per_class=True)],
        inputs=contract_inputs(height=height, width=width),
        attributes=attributes,
        initializers=before.graph.initializer,
        metadata=metadata,
    )


def _stage_nodes(stage: onnx.ModelProto, prefix: str, given: Mapping[str, str]) -> Sequence[onnx.NodeProto]:
    """A stage's nodes, with the names of the graph behind its inputs; the names of its weights stay."""
    copy = compose.add_prefix(stage, prefix, rename_initializers=False, rename_functions=False)
    inputs = [helper.make_node("Identity", [name], [prefix + own]) for own, name in given.items()]
    return [*inputs, *copy.graph.node]
