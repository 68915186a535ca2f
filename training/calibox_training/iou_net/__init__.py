"""IoU-Net: Precise RoI pooling, jittered boxes, the predictor, refinement, and training on frozen features."""
