"""Names of CalibratedNMS's tensors, in their order; the bundle's graph has the same outputs. Needs nothing."""

INPUTS = ("boxes", "p", "q", "fusion", "score_threshold", "iou_threshold")
DETECTION_OUTPUTS = (
    "num_detections",
    "boxes",
    "labels",
    "classification_scores",
    "localization_scores",
    "scores",
)
CANDIDATE_OUTPUTS = (
    "candidate_boxes",
    "candidate_labels",
    "candidate_classification_scores",
    "candidate_localization_scores",
)
OUTPUTS = (*DETECTION_OUTPUTS, *CANDIDATE_OUTPUTS)
