"""Engines of TensorRT and TensorRT-RTX: loaded, checked, and run with two or more batches in flight."""
