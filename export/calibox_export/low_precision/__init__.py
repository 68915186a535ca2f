"""A bundle's graph in lower precision: fp16, bf16, int8."""
