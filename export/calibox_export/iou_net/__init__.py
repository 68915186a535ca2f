"""IoU-Net inside a bundle's graph: the predicted IoU of candidates, and refinement of what is kept."""
