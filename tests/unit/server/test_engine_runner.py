"""How long a run of the engine has been going on, which tells of one that hangs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibox_core.bundle import read_bundle
from calibox_core.fusion import Exponents
from calibox_server.engine_runner import EngineRunner, RawDetections, Work, clock
from calibox_server.metrics import Metrics
from calibox_server.parameters import Parameters
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S, GatedEngine

PARAMETERS = Parameters(Exponents(1.0, 0.5, 0.0), 0.1, 0.6, 10, None, (0,), 1000.0)


def test_a_run_is_told_of_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    engine = GatedEngine(read_bundle(make_tiny_bundle(tmp_path)))
    runner = EngineRunner(engine, Metrics().model("tiny", "1", ("a", "b", "c")), "tiny")

    async def scenario() -> None:
        assert runner.longest_run == 0
        engine.gate.clear()
        work = Work(np.zeros((96, 128, 3), np.uint8), PARAMETERS, 0, clock())
        before = clock()
        running: asyncio.Future[Sequence[RawDetections]] = asyncio.get_running_loop().create_future()
        runner.run([work], running)
        await asyncio.to_thread(engine.wait_for_run)
        first = runner.longest_run
        assert 0 < first <= clock() - before
        assert runner.longest_run > first
        engine.gate.set()
        await asyncio.wait_for(running, PATIENCE_S)
        assert runner.longest_run == 0
        await runner.close(idle=True)

    asyncio.run(scenario())
