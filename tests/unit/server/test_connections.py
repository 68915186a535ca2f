"""Limits of connections that need no connection: by hand."""

import math
from dataclasses import dataclass, field

from calibox_server.connections import Connection, Limits, Sweeper, took_too_long
from calibox_server.errors import SlowRequestError
from calibox_server.options import Options


def test_a_body_may_take_the_grace_and_what_its_bytes_pay_for() -> None:
    limits = Limits.of(Options(slow_grace_s=10.0, min_upload_rate=1000))
    assert [limits.time_for(received) for received in (0, 500, 60_000)] == [10.0, 10.5, 70.0]
    assert Limits.of(Options(min_upload_rate=0)).time_for(0) == math.inf


@dataclass(eq=False)
class Seen(Connection):
    """A connection that only notes when it was looked at."""

    times: list[float] = field(default_factory=list)

    def sweep(self, now: float) -> None:
        self.times.append(now)


def test_connections_are_looked_at_often_enough_for_the_grace_and_not_more() -> None:
    for grace, wanted in ((0.5, [0.0, 0.125, 0.25, 0.375]), (2.5, [0.0, 0.25]), (60.0, [0.0])):
        seen, sweeper = Seen(), Sweeper(grace)
        for tick in range(4):
            sweeper.look({seen, object()}, tick / 8)
        assert seen.times == wanted, grace


def test_a_body_that_ended_for_its_slowness_is_told_apart_from_a_caller_that_left() -> None:
    error = SlowRequestError("slow")
    assert took_too_long({}) is None
    assert took_too_long({"too_slow": lambda: error}) is error
