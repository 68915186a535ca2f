"""What requests and traces are known by: an id of our own, and the header `traceparent` of W3C Trace Context, level 1.

The standard: https://www.w3.org/TR/trace-context/
"""

import random
import re

_ids = random.Random()  # names, not secrets; asking the kernel for each would hand the interpreter lock away

# version - trace id - parent id - flags, in lower case; later versions may append further parts.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def new_request_id() -> str:
    """16 hex digits, at random."""
    return f"{_ids.getrandbits(64):016x}"


def trace_id(traceparent: str) -> str:
    """The trace's id, 32 hex digits; empty where the header is not valid, as the standard asks: it is then ignored."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return ""
    version, trace, parent, more = found.groups()
    known = version != "ff" and (version != "00" or more is None)
    return trace if known and trace.strip("0") and parent.strip("0") else ""
