"""What the garbage collector of a serving process looks at."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from calibox_server.heap import settle

class Node:
    pass

garbage, kept = Node(), Node()
garbage.self, lost = garbage, weakref.ref(garbage)
freed = weakref.ref(kept)
del garbage
gc.disable()
assert lost() is not None
settle()
assert lost() is None, "what was garbage already is not kept for ever"
assert gc.get_freeze_count() > 1000 and len(gc.get_objects()) < 100, (gc.get_freeze_count(), len(gc.get_objects()))
del kept
assert freed() is None, "what nobody holds any more is freed all the same"
late = Node()
late.self, lost = late, weakref.ref(late)
del late
gc.collect()
assert lost() is None, "cycles of requests are found as ever"
"""


def test_a_settled_process_collects_only_what_came_since() -> None:
    """In a process of its own: there is no way back that would leave this one as it was."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
