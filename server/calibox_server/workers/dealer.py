"""Which front end gets the next connection. Pure.

A front end tells how many connections it received, as soon as it did, and now and then how many of them are open. Those
that it was given since are counted as open, so that connections that come at once are dealt out evenly too.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Hand:
    """What one front end has."""

    given: int = 0
    received: int = 0  # as it told last
    open: int = 0  # as it told last
    turn: int = 0  # when it was given the last one

    @property
    def under_way(self) -> int:
        """Connections that were given and not received yet, as far as can be known."""
        return self.given - self.received

    @property
    def load(self) -> int:
        """Connections that are open, as far as can be known."""
        return self.open + self.under_way


@dataclass(slots=True)
class Dealer:
    """Deals to the front end with the fewest open connections; of equals, to the one that waited longest."""

    hands: dict[int, Hand] = field(default_factory=dict)  # by number of the front end
    turns: int = 0

    def join(self, front: int) -> None:
        """A front end is ready, with no connections."""
        self.hands[front] = Hand(turn=self.turns)

    def leave(self, front: int) -> None:
        """A front end ended, and its connections with it."""
        self.hands.pop(front, None)

    def told(self, front: int, received: int, opened: int) -> None:
        """A front end tells."""
        hand = self.hands.get(front)
        if hand is not None:
            hand.received, hand.open = received, opened

    def deal(self) -> int:
        """The front end that gets the next connection; there is at least one."""
        front = min(self.hands, key=lambda name: (self.hands[name].load, self.hands[name].turn))
        self.turns += 1
        hand = self.hands[front]
        hand.given, hand.turn = hand.given + 1, self.turns
        return front
