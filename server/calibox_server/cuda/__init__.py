"""The part of CUDA that the server uses, behind one small protocol: cuda-bindings or pycuda."""
