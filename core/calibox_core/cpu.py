"""What this machine's CPU is and can do."""

import os
import platform
from pathlib import Path

INT8_PRODUCTS = "int8-products"  # as engine.json says it under `needs`
# Names of the kernel: AVX-512 VNNI, AVX VNNI, and the dot products of ARM.
_FLAGS = frozenset(("avx512_vnni", "avx_vnni", "asimddp"))


def has_int8_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether sums of INT8 products are kept in 32 bits. Where the system does not say, yes.

    Without, ONNX Runtime adds pairs of products of signed and unsigned bytes in 16 bits, and large ones are cut off.
    """
    try:
        return not _FLAGS.isdisjoint(cpuinfo.read_text().split())
    except OSError:
        return True


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Processor and number of cores, for people."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
