"""Damaged requests of benchmarks/soak, short: what damages, what is blamed, and bombs."""

import asyncio
import zlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.soak import bombs, schema
from benchmarks.soak.connection import Connection
from benchmarks.soak.findings import Findings
from benchmarks.soak.fuzz import BY_DESIGN, Seen, attack
from benchmarks.soak.mutations import MUTATIONS, damaged, spliced, truncated, with_right_checksums
from benchmarks.soak.setup import Setup
from benchmarks.soak.surfaces import surfaces
from calibox_core.images import read_header
from calibox_server.engine import EngineInput, EngineOutput
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

BODIES = 500


@given(seed=st.integers(), data=st.binary(min_size=1, max_size=200))
def test_a_seed_makes_the_same_damage_again(seed: int, data: bytes) -> None:
    others = [data, b"another body"]
    assert damaged(Random(seed), data, others) == damaged(Random(seed), data, others)
    for mutate in MUTATIONS:
        assert isinstance(mutate(Random(seed), data, others), bytes)


@given(seed=st.integers(), data=st.binary(min_size=1, max_size=50))
def test_truncated_is_a_beginning_and_spliced_a_beginning_and_an_end(seed: int, data: bytes) -> None:
    assert data.startswith(truncated(Random(seed), data, []))
    other = b"\1\2\3"
    joined = spliced(Random(seed), data, [other])
    assert any(joined == data[:i] + other[j:] for i in range(len(data) + 1) for j in range(4))


def test_a_damaged_png_gets_the_checksums_of_what_it_says_now() -> None:
    whole = encoded(picture(), "PNG")
    wider = whole[:19] + b"\x51" + whole[20:]  # 81 columns in place of 80
    assert with_right_checksums(whole) == whole
    repaired = with_right_checksums(wider)
    assert read_header(repaired).width == 81
    assert repaired[29:33] == zlib.crc32(wider[12:29]).to_bytes(4, "big") != wider[29:33]
    assert with_right_checksums(whole[:40]) == whole[:40]


def attacked(models: Path, tmp_path: Path, **options: object) -> Seen:
    setup = Setup(models, tmp_path, bodies=BODIES)
    with live_server(models, log_level="error", slow_grace_s=0.2, min_upload_rate=10**6, **options) as url:
        return asyncio.run(attack(setup, int(url.rpartition(":")[2])))


def blamed(seen: Seen) -> int:
    return sum(count for (_, status), count in seen.answers.items() if status >= 500 and status not in BY_DESIGN)


def test_damaged_requests_are_their_senders_fault(models: Path, tmp_path: Path) -> None:
    seen = attacked(models, tmp_path, max_pixels=4_000_000)
    assert (blamed(seen), seen.wrong, seen.bodies) == (0, [], BODIES)
    assert not any(status < 0 for _, status in seen.answers)
    assert {name for name, _ in seen.answers} > {"jpeg", "tensors", "multipart", "head"}
    assert sum(count for (_, status), count in seen.answers.items() if 400 <= status < 500) > BODIES / 2


class Moody(OnnxRuntimeEngine):
    """Fails at four of its runs."""

    runs = 0

    def run(self, batch: EngineInput) -> EngineOutput:
        self.runs += 1
        if 100 < self.runs <= 104:
            raise MemoryError
        return super().run(batch)


def test_a_server_that_fails_is_blamed(models: Path, tmp_path: Path) -> None:
    seen = attacked(models, tmp_path, open_engine=Moody)
    assert 1 <= blamed(seen) + len(seen.wrong) <= 4
    assert len(list((tmp_path / "blamed").iterdir())) == blamed(seen) >= 1


def test_every_surface_is_answered(models: Path, tmp_path: Path) -> None:
    named = surfaces(Setup(models, tmp_path).bundle)

    async def ask(port: int) -> dict[str, int]:
        connection = await Connection.to(port)
        found = {name: (await connection.ask(request)).status for name, request in named.items()}
        connection.close()
        return found

    with live_server(models) as url:
        assert asyncio.run(ask(int(url.rpartition(":")[2]))) == dict.fromkeys(named, 200)


def test_bombs_take_no_memory(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "UNFOLDED", 60 * 2**20)
    findings = Findings()
    bombs.prove(Setup(models, tmp_path), findings)
    assert findings.failed == []


@pytest.mark.slow
def test_whatever_the_document_allows_is_answered_as_it_says(models: Path, tmp_path: Path) -> None:
    findings = Findings()
    schema.prove(Setup(models, tmp_path, bodies=1), findings)
    assert findings.failed == [], findings.text()
