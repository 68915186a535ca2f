"""The check of memory of benchmarks/soak, short: its slope, its mixture, and a server that keeps what it should not."""

import asyncio
import sys
from pathlib import Path

import pytest

from benchmarks.soak.memory import growth
from benchmarks.soak.mixture import SHARES, Mixture
from benchmarks.soak.served import SERVE, serving
from benchmarks.soak.setup import Setup
from tests.support.live_server import live_server


def test_growth_is_the_median_slope_of_the_second_half() -> None:
    # 50 MB at first, then from 5000 requests on 0.2 MB per 1000; one sample is far off.
    samples = [(1000 * i, 100.0 + 10 * min(i, 5) + 0.2 * max(0, i - 5)) for i in range(1, 11)]
    assert growth(samples, group=1) == pytest.approx(2.0)
    samples[7] = (8000, 400.0)
    # Of the 15 slopes 5 belong to that sample; the median of all stays.
    assert growth(samples, group=1) == pytest.approx(2.0)


def test_growth_is_that_of_the_floor() -> None:
    # Two of three samples are higher, and ever more so; what stays is 0.3 MB per 1000 requests.
    samples = [(1000 * i, 100.0 + 0.3 * i + (5 * i if i % 3 else 0)) for i in range(1, 13)]
    assert growth(samples, group=3) == pytest.approx(3.0)
    assert growth(samples, group=1) == pytest.approx(53.0)  # the median pair is of two higher ones


def test_the_mixture_does_everything_and_the_server_answers_right(models: Path, tmp_path: Path) -> None:
    async def run(port: int) -> Mixture:
        mixture = await Mixture.at(port, Setup(models, tmp_path).bundle, seed=3, progress=lambda _: None)
        await mixture.run(400)
        return mixture

    with live_server(models, log_level="error") as url:
        mixture = asyncio.run(run(int(url.rpartition(":")[2])))
    assert mixture.wrong == []
    assert mixture.seen.keys() == SHARES.keys()
    assert mixture.done == sum(mixture.seen.values()) >= 400


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell their memory otherwise")
@pytest.mark.parametrize(
    "options", [(), pytest.param(("--http-workers", "2"), marks=pytest.mark.slow)], ids=["one", "several"]
)
def test_what_a_server_keeps_of_every_request_is_seen(options: tuple[str, ...], models: Path, tmp_path: Path) -> None:
    setup = Setup(models, tmp_path)

    def grown(*command: str) -> float:
        """MB by 300 requests, once 100 were answered."""
        with serving(models, tmp_path, options, command=command) as served:

            async def run() -> float:
                mixture = await Mixture.at(served.port, setup.bundle, seed=0, progress=lambda _: None)
                await mixture.run(100)
                before = served.pss()
                await mixture.run(300)
                return served.pss() - before

            return asyncio.run(run())

    kept = 100_000  # bytes; the 250 or so of 300 requests that are no frames of a stream keep 25 MB
    assert grown("-m", "benchmarks.soak.leaking", str(kept)) > 15
    assert grown(*SERVE) < 10
