"""The line of one model in front of an engine in this process: slots, queue, threads.

Nothing here refers back to the pipeline, so that no cycle keeps an engine alive once its pipeline is closed.
"""

from dataclasses import replace

from calibox_core.manifest import Manifest
from calibox_server.batcher import Batcher
from calibox_server.door import Held
from calibox_server.engine import Engine, runs_on_cpu
from calibox_server.engine_runner import EngineRunner, RawDetections, Work, clock
from calibox_server.metrics import ModelMetrics
from calibox_server.options import available_cores
from calibox_server.queue import Policy
from calibox_server.slots import SlotPool


class EngineLine(Batcher[Work, RawDetections]):
    """Batches for an engine.

    Args:
        manifest, engine: the model, already warmed up.
        policy, queue_size, reserved, held: of the batcher.
        metrics: of this model.
        busy: as `EngineRunner` takes it.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        *,
        policy: Policy,
        queue_size: int,
        reserved: int = 0,
        metrics: ModelMetrics,
        held: Held | None = None,
        busy: set[int] | None = None,
    ) -> None:
        self._runner = EngineRunner(engine, metrics, manifest.name, busy)
        size = manifest.input
        # Free slots that are worth keeping: what the engine holds, and as much again on its way there.
        slots = SlotPool(height=size.height, width=size.width, keep=2 * engine.in_flight * policy.max_batch)
        self.slots = slots
        # Where a run for each core goes on at once, threads that decode beside them would only take turns with them.
        self.decodes = runs_on_cpu(engine) and policy.max_batch == 1 and engine.instances >= available_cores()
        if self.decodes:  # the next ones are handed over ahead: the cores do not wait for the event loop
            policy = replace(policy, in_flight=policy.in_flight + policy.instances)
        self.in_flight = engine.in_flight
        super().__init__(
            self._runner.run,
            policy,
            queue_size=queue_size,
            reserved=reserved,
            release=lambda work: slots.give(work.slot),
            clock=clock,
            held=held,
        )

    @property
    def longest_run(self) -> float:
        """As `EngineRunner.longest_run`."""
        return self._runner.longest_run

    async def close(self, timeout: float) -> bool:
        """As `Batcher.close`, and closes the engine."""
        finished = await super().close(timeout)
        await self._runner.close(idle=finished)
        return finished
