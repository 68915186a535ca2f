"""An engine that waits for a test before each run, around the real one."""

import threading

from calibox_core.bundle import Bundle
from calibox_server.engine import EngineInput, EngineOutput
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine

PATIENCE_S = 60  # for what happens within milliseconds on a healthy machine


class GatedEngine:
    """ONNX Runtime whose runs wait while the gate is closed; it notes what it saw."""

    def __init__(self, bundle: Bundle, *, instances: int = 1, max_batch: int = 1) -> None:
        self._real = OnnxRuntimeEngine(bundle, instances=instances, max_batch=max_batch)
        self.name, self.max_batch = self._real.name, self._real.max_batch
        self.instances, self.in_flight = self._real.instances, self._real.in_flight
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)  # released once per run that begins
        self.batches: list[EngineInput] = []

    def run(self, batch: EngineInput) -> EngineOutput:
        """One run of the real engine, once the gate is open."""
        self.batches.append(batch)
        self.arrived.release()
        assert self.gate.wait(PATIENCE_S), "the test never opened the gate"
        return self._real.run(batch)

    def wait_for_run(self) -> None:
        """Blocks until one more run has begun."""
        assert self.arrived.acquire(timeout=PATIENCE_S), "no run began"

    def forget(self) -> None:
        """As if nothing had run yet: the warm-up does not count."""
        self.batches.clear()
        while self.arrived.acquire(blocking=False):
            pass
