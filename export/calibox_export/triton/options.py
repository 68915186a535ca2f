"""The options of `calibox export --triton`. Light to import: `calibox --help` reads them."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

Device: TypeAlias = Literal["cpu", "gpu"]

TritonOption = Annotated[
    Path | None,
    typer.Option(
        "--triton", help="Write a model repository of NVIDIA's Triton into this folder, which must not be there yet."
    ),
]
BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle", help="With --triton: a bundle that is there, <models>/<name>/<version>; no checkpoint then."
    ),
]
DeviceOption = Annotated[
    Device, typer.Option("--triton-device", help="With --triton: what runs the ONNX file. Engines need a GPU.")
]
InstancesOption = Annotated[
    int | None,
    typer.Option(
        "--triton-instances",
        min=1,
        help="With --triton: runs side by side; by default one per core of this machine, or 1 on a GPU.",
    ),
]
MaxBatchOption = Annotated[
    int,
    typer.Option(
        "--triton-max-batch", min=1, help="With --triton: most images in one request; what engines were built for."
    ),
]
