"""Which package reaches CUDA."""

from functools import cache

from calibox_server.cuda.cuda_bindings_driver import CudaBindingsDriver
from calibox_server.cuda.driver import CudaDriver, DriverMissingError
from calibox_server.cuda.pycuda_driver import PycudaDriver
from calibox_server.options import CudaDriverName


@cache  # all engines of a process share the device
def open_driver(wanted: CudaDriverName = "auto") -> CudaDriver:
    """The driver that was asked for; cuda-bindings before pycuda where that was left open.

    Raises:
        DriverMissingError: it is not installed; the text says what installs it.
        EngineError: no GPU can be used.
    """
    if wanted == "pycuda":
        return PycudaDriver()
    if wanted == "cuda-bindings":
        return CudaBindingsDriver()
    try:
        return CudaBindingsDriver()
    except DriverMissingError as first:
        try:
            return PycudaDriver()
        except DriverMissingError as second:
            raise DriverMissingError(
                f"neither cuda-bindings nor pycuda can be imported ({first.__cause__}; {second.__cause__}); install "
                "cuda-bindings with: pip install 'calibox[gpu]'"
            ) from second
