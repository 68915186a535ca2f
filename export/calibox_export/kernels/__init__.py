"""CalibratedNMS by the CUDA kernels of `trt_plugins`, called from Python: through ctypes, and as a PyTorch operator.

Importing `library` needs ctypes alone, and `arrays` numpy: both work where neither onnx nor pydantic is installed.
"""
