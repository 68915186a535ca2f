"""What building and serving share of the Python package `openvino`."""

from typing import Any

from calibox_core.engines import EngineError
from calibox_core.precision import Precision

IR_FILE = "model.xml"  # and model.bin beside it
# Precision of the arithmetic as OpenVINO calls it; INT8 layers say so in the graph, and the rest is float32.
HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def import_openvino() -> Any:
    """The package.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            f"OpenVINO cannot be imported ({error}); install it with: pip install 'calibox[openvino]'"
        ) from error
    return openvino
