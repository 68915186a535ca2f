"""Times of stages: equal to plain loops, whatever the passes."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from calibox_server.stage_counts import EDGES, FAMILY, PASS, STAGES, StageCounts


def read(counts: StageCounts) -> dict[tuple[str, str, str | None], float]:
    (family,) = text_string_to_metric_families(counts.exposition())
    assert (family.name, family.type) == (FAMILY, "histogram")
    return {(s.name.removeprefix(FAMILY), s.labels["stage"], s.labels.get("le")): s.value for s in family.samples}


def test_one_request_by_hand() -> None:
    counts = StageCounts()
    counts.observe({"total": 0.3, "decode": 0.001, "queue": 0.0, "engine": 11.0})
    found = read(counts)
    assert [found["_bucket", "decode", le] for le in ("0.0005", "0.001", "0.0025")] == [
        0,
        1,
        1,
    ]  # an edge belongs to it
    assert [found["_bucket", "total", le] for le in ("0.25", "0.5", "+Inf")] == [0, 1, 1]
    assert [found["_bucket", "engine", le] for le in ("10.0", "+Inf")] == [0, 1]
    assert found["_bucket", "queue", "0.0005"] == 1
    assert [found["_sum", stage, None] for stage in STAGES] == [0.001, 0.0, 11.0, 0.3]


times = st.one_of(st.sampled_from(EDGES), st.floats(0, 20))


@given(st.lists(st.tuples(times, times, times, times), max_size=40), st.integers(0, 3))
def test_equal_to_plain_loops_however_often_it_is_asked(rows: list[tuple[float, ...]], every: int) -> None:
    counts = StageCounts()
    for i, row in enumerate(rows):
        counts.observe(dict(zip(STAGES, row, strict=True)))
        if every and i % every == 0:
            read(counts)
    found = read(counts)
    for s, stage in enumerate(STAGES):
        for edge in EDGES:
            assert found["_bucket", stage, repr(edge)] == sum(row[s] <= edge for row in rows)
        assert found["_count", stage, None] == len(rows)


def test_memory_is_bounded_by_a_pass() -> None:
    counts = StageCounts()
    for _ in range(2 * PASS + 1):
        counts.observe(dict.fromkeys(STAGES, 1.0))
    assert len(counts._waiting) == 1
    assert read(counts)["_sum", "queue", None] == 2 * PASS + 1
