"""The pool of input images."""

import numpy as np

from calibox_server.slots import SlotPool


def test_a_slot_that_was_given_back_is_lent_again() -> None:
    pool = SlotPool(height=4, width=5, keep=1)
    slot, other = pool.take(), pool.take()
    assert slot.shape == (4, 5, 3)
    assert slot is not other
    pool.give(slot)
    assert pool.take() is slot


def test_a_view_of_memory_that_is_somebody_elses_is_never_lent() -> None:
    pool = SlotPool(height=4, width=5, keep=4)
    body = bytes(range(60))
    pool.give(np.frombuffer(body, np.uint8).reshape(4, 5, 3))
    slot = pool.take()
    slot[:] = 7
    assert slot.base is None
    assert body == bytes(range(60))
