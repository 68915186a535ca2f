"""What both clients share about HTTP: how a request is given to httpx2, and what its failures mean."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import httpx2

from calibox_client.errors import BadReplyError, CaliboxClientError, DeadlineError, ServerUnreachableError
from calibox_client.requests import HttpRequest, ending_in
from calibox_client.retries import Deadline

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 60.0  # seconds: a full queue of a CPU server, and a few pauses, fit in
# A host that does not answer within this is treated as unreachable and tried again; longer than two lost SYN packets.
_CONNECT_TIMEOUT = 5.0
MOST_AT_ONCE = 100  # requests in flight of one client
# All connections are kept: each new one costs a round trip. Load balancers close idle ones after some 60 s, servers of
# ours after 65; closing first means that none is met that is just being closed.
LIMITS = httpx2.Limits(max_connections=MOST_AT_ONCE, max_keepalive_connections=MOST_AT_ONCE, keepalive_expiry=30.0)


def check_timeout(timeout: float) -> float:
    """The time for a whole call, in seconds.

    Raises:
        ValueError: it is not a positive number.
    """
    if not 0 < timeout < float("inf"):
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout}")
    return timeout


def check_concurrency(concurrency: int) -> int:
    """How many requests may be in flight.

    Raises:
        ValueError: it is not within 1..100.
    """
    if not 1 <= concurrency <= MOST_AT_ONCE:
        raise ValueError(f"concurrency must be within 1..{MOST_AT_ONCE}, got {concurrency}")
    return concurrency


def default_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers of every request; the caller's win."""
    return {"User-Agent": f"calibox-client/{version('calibox')}", **(headers or {})}


def stream_arguments(url: str, request: HttpRequest, deadline: Deadline) -> dict[str, Any]:
    """Arguments of httpx2's ``stream``, with what is left of the call's time as limit of each network operation.

    Args:
        url: of the server, without a trailing slash.
        request: to it.
        deadline: of the call.

    Raises:
        DeadlineError: nothing is left.
    """
    remaining = deadline.remaining()
    if remaining <= 0:
        raise deadline_error(deadline)
    request = ending_in(request, remaining)
    return {
        "method": request.method,
        # Whole and as text: joined by httpx2 to its base and to parameters, it is taken apart three times over.
        "url": f"{url}{request.path}?{httpx2.QueryParams(request.query)}" if request.query else f"{url}{request.path}",
        "headers": dict(request.headers),
        "content": request.content,
        "data": dict(request.form) or None,
        "files": list(request.files) or None,
        "timeout": httpx2.Timeout(remaining, connect=min(remaining, _CONNECT_TIMEOUT)),
    }


def deadline_error(deadline: Deadline) -> DeadlineError:
    """The call's time is over."""
    return DeadlineError(f"no answer within the {deadline.seconds:g} s that the call had")


def client_error(error: httpx2.HTTPError, url: str, deadline: Deadline) -> CaliboxClientError:
    """What a failure of the network means to the caller."""
    if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
        return deadline_error(deadline)
    if isinstance(error, httpx2.ConnectTimeout) and deadline.remaining() <= 0:
        return deadline_error(deadline)
    if isinstance(error, httpx2.LocalProtocolError):
        return CaliboxClientError(f"the request cannot be sent: {error}")
    if isinstance(error, httpx2.TransportError):
        reason = str(error) or type(error).__name__
        return ServerUnreachableError(f"{url} cannot be reached, or broke the connection: {reason}")
    return BadReplyError(f"{url} sent an answer that cannot be read: {error}")
