#!/bin/sh
# Takes out of an environment what neither the server nor `calibox eval` ever loads: sh docker/trim.sh FOLDER
set -eu
packages=$(echo "$1"/lib/python3.*/site-packages)

# The packages' own tests, and stubs for type checkers.
find "$packages" -depth -type d \( -name tests -o -name test \) -not -path '*/numpy/testing/*' -exec rm -rf {} +
find "$packages" -type f -name '*.pyi' -delete
# ONNX Runtime's library for C programs (Python's module has the same inside it), and its tools for making models.
rm -f "$packages"/onnxruntime/capi/libonnxruntime.so.*
rm -rf "$packages"/onnxruntime/transformers "$packages"/onnxruntime/tools "$packages"/onnxruntime/quantization
# What compiles extensions.
rm -rf "$packages"/numpy/_core/include "$packages"/numpy/_core/lib "$packages"/numpy/f2py "$packages"/numpy/distutils
# Debug information, of modules that bring no libraries of their own (what auditwheel has patched is left alone).
for module in "$packages"/uvloop/*.so "$packages"/yaml/*.so "$packages"/httptools/parser/*.so; do
    if [ -e "$module" ]; then strip --strip-unneeded "$module"; fi
done
