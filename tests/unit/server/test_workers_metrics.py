"""One text of metrics for several processes."""

import os

import pytest

from calibox_server.workers import messages
from calibox_server.workers.children import Child
from calibox_server.workers.exposition import counted, merged, parse
from calibox_server.workers.gathering import Gathering
from calibox_server.workers.shared import read_document
from tests.support.worker_parts import Post, run

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")


ONE = """\
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{code="ok"} 3.0
requests_total{code="late"} 1.0
# HELP calibox_uptime_seconds Since.
# TYPE calibox_uptime_seconds gauge
calibox_uptime_seconds 5.5
# HELP process_resident_memory_bytes Memory.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1e+06
# HELP depth Waiting.
# TYPE depth gauge
depth{model="a b"} 2.0
# HELP time Seconds.
# TYPE time histogram
time_bucket{le="1.0"} 2
time_sum 1.25
"""
OTHER = ONE.replace('code="late"', 'code="bad"').replace("5.5", "7.5")


def test_metrics_of_processes_become_one_text() -> None:
    families = parse(merged({"front-1": ONE, "engine": OTHER, "": ONE}))
    assert families["requests_total"].values == {
        'requests_total{code="ok"}': 9.0,
        'requests_total{code="late"}': 2.0,
        'requests_total{code="bad"}': 1.0,
    }
    assert families["calibox_uptime_seconds"].values == {"calibox_uptime_seconds": 7.5}
    assert families["process_resident_memory_bytes"].values == {
        'process_resident_memory_bytes{process="front-1"}': 1e6,
        'process_resident_memory_bytes{process="engine"}': 1e6,
    }
    assert families["depth"].values == {'depth{model="a b"}': 4.0}  # the past has no gauges
    assert families["time"].values == {'time_bucket{le="1.0"}': 6.0, "time_sum": 3.75}
    assert families["time"].head == ["# HELP time Seconds.", "# TYPE time histogram"]
    assert set(parse(counted(ONE))) == {"requests_total", "time"}


def test_metrics_are_gathered_from_whoever_answers_and_what_the_dead_counted_stays() -> None:
    async def scenario() -> None:
        posts = [Post() for _ in range(3)]
        children = [
            Child(i, None, post, 0.0, ready=True)  # type: ignore[arg-type]
            for i, post in enumerate(posts)
        ]
        gathering = Gathering()

        def asked(of: Post) -> int:
            kind, number, _ = of.sent.pop()
            assert kind == messages.SNAPSHOT
            return number

        def told() -> dict[str, str]:
            kind, number, (fd,) = posts[1].sent.pop()
            assert (kind, number) == (messages.SNAPSHOTS, 0)
            texts = read_document(fd)
            assert isinstance(texts, dict)
            return texts

        gathering.told(children[1], 0, ONE, children)
        gathering.told(children[0], asked(posts[0]), OTHER, children)
        gathering.told(children[2], asked(posts[2]), ONE, children)
        assert {name: text for name, text in told().items() if text in (ONE, OTHER)} == {
            "front-1": ONE,
            "engine": OTHER,
            "front-2": ONE,
        }
        gathering.told(children[1], 0, ONE, children)
        gathering.told(children[0], asked(posts[0]), OTHER, children)
        gathering.ended(children[2])  # instead of an answer
        texts = told()
        assert set(texts) == {"front-1", "engine", "supervisor", ""}
        values = parse(merged(texts))
        assert values["requests_total"].values['requests_total{code="ok"}'] == 9.0
        assert values["calibox_process_ends_total"].values == {'calibox_process_ends_total{process="front-2"}': 1.0}

    run(scenario())
