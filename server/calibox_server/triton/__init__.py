"""The model `<name>_detect` of `calibox export --triton`: what `POST /v1/detect` does, inside NVIDIA's Triton."""
