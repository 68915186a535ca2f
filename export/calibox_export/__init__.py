"""From a checkpoint to a bundle: one ONNX graph with post-processing inside, and the proof that it answers alike."""
