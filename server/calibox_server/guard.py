"""Who may ask, and how often: keys and rates in front of every address but those for health and for the page."""

import ipaddress
import math
from collections.abc import Callable, Iterable
from functools import partial

import orjson
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from calibox_server import errors
from calibox_server.engine_runner import clock
from calibox_server.errors import RateLimitedError, ServiceError, UnauthorizedError
from calibox_server.keys import Keys, read_keys
from calibox_server.metrics import Metrics
from calibox_server.options import Options, items
from calibox_server.rate import Limiter, MakeLimiter, Rate, Takes
from calibox_server.records import Record, record_of
from calibox_server.rereading import Reread
from calibox_server.service import Service

OPEN = frozenset({"/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
OPEN_BELOW = "/page/"  # the page's own files; it asks for a key itself
_IPV6_PREFIX = 64  # bits: one network of a home or a host


class Guard:
    """Lets a caller in or not; the same for every protocol.

    Args:
        keys: of those who may ask; all may where there are none.
        requests, images: how often each caller may, counted per key, or per address where there are no keys.
        now: seconds, monotonic.
        newest_keys: the keys as they are now, where they may change; there are always some if there were.
    """

    def __init__(
        self,
        keys: Keys,
        requests: Takes | None = None,
        images: Takes | None = None,
        now: Callable[[], float] = clock,
        newest_keys: Callable[[], Keys] | None = None,
    ) -> None:
        self._keys = keys
        self._newest_keys = newest_keys or (lambda: keys)
        self._requests = requests
        self._images = images
        self._now = now

    def admit(self, headers: Iterable[tuple[bytes, bytes]], address: str) -> str:
        """Lets one request in.

        Args:
            headers: names in lower case; of gRPC, the metadata.
            address: of the caller.

        Returns: the caller: the name of its key, or its address where there are no keys.

        Raises:
            UnauthorizedError: no key, or an unknown one.
            RateLimitedError: the caller asks too often, or still owes for the images that it sent.
        """
        caller = self._owner(headers) if self._keys else _network(address)
        self._take(self._requests, caller, 1, "requests")
        self._take(self._images, caller, 0, "images")
        return caller

    def charge(self, caller: str, images: int) -> None:
        """Counts the images of a request that was let in.

        Raises:
            RateLimitedError: more than the caller may send now.
        """
        self._take(self._images, caller, images, "images")

    def let_in(self, scope: Scope, record: Record) -> None:
        """Admits a request that came over HTTP, and lets it be charged.

        Raises:
            ServiceError: as `admit`.
        """
        client = scope.get("client")
        self.bill(record, self.admit(scope["headers"], client[0] if client else ""))

    def bill(self, record: Record, caller: str) -> None:
        """Lets a request that was let in be charged."""
        record.caller = caller
        record.charge, record.charge_more = partial(self.charge, caller), partial(self.charge_more, caller)

    def charge_more(self, caller: str, images: int) -> None:
        """Counts what an admitted request turns out to cost beside its images; never refused, it delays the next."""
        if self._images is not None:
            self._images.take(caller, images, self._now(), owe=True)

    def _owner(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        key = shown_key(headers)
        if not key:
            raise UnauthorizedError("this server asks for a key; send it as Authorization: Bearer KEY, or as X-API-Key")
        owner = self._newest_keys().owner(key)
        if owner is None:
            raise UnauthorizedError("this key is not known here; ask whoever runs the server for one")
        return owner

    def _take(self, limiter: Takes | None, caller: str, count: int, what: str) -> None:
        wait = limiter.take(caller, count, self._now()) if limiter is not None else 0.0
        if wait:
            raise RateLimitedError(
                f"{caller} sends more {what} per second than it may; send again after {wait:.3g} s",
                retry_after=math.ceil(wait),
            )


def make_guard(settings: Options, make_limiter: MakeLimiter = Limiter) -> Guard | None:
    """The guard that the settings ask for; None where everybody may ask as often as they like.

    Args:
        settings: of the server.
        make_limiter: called for the rate of requests, then for that of images, where they are set.

    Raises:
        KeysError: the keys cannot be read.
    """
    file = settings.api_keys_file
    renewed = Reread("keys", [file] if file else [], lambda: read_keys(file, items(settings.api_keys)))
    keys = renewed.current()
    burst = settings.rate_burst_s
    requests, images = (
        make_limiter(Rate.of(rate, burst)) if rate is not None else None
        for rate in (settings.rate_requests, settings.rate_images)
    )
    asked = bool(keys) or requests is not None or images is not None
    return Guard(keys, requests, images, newest_keys=renewed.current) if asked else None


def is_open(path: str) -> bool:
    """Whether nobody is asked for a key at this address."""
    return path in OPEN or path.startswith(OPEN_BELOW)


def shown_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The key of `Authorization: Bearer` or else of `X-API-Key`; empty where there is neither."""
    found = ""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
        if name == b"x-api-key":
            found = value.strip().decode("latin-1")
    return found


class GuardMiddleware:
    """Asks the guard before anything is read of a request."""

    def __init__(self, app: ASGIApp, guard: Guard, metrics: Metrics) -> None:
        self._app = app
        self._guard = guard
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            self._guard.let_in(scope, record_of(scope))
        except ServiceError as error:
            self._metrics.request_ended(error.code)
            if scope["type"] != "websocket":
                raise
            await _deny(scope, receive, send, error)
            return
        await self._app(scope, receive, send)


def add_guard(app: FastAPI, service: Service) -> Guard | None:
    """Adds the guard, if the settings ask for one; it is returned for what is not HTTP."""
    guard = make_guard(service.settings, service.make_limiter)
    if guard is not None:
        app.add_middleware(GuardMiddleware, guard=guard, metrics=service.metrics)
    return guard


async def _deny(scope: Scope, receive: Receive, send: Send, error: ServiceError) -> None:
    """Refuses to open a WebSocket, with the problem document where the web server can send one."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})  # policy violation, RFC 6455
        return
    document = orjson.dumps(errors.problem(error, record_of(scope).request_id))
    headers = {"Content-Type": errors.PROBLEM_TYPE, "Content-Length": str(len(document)), **error.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": raw})
    await send({"type": "websocket.http.response.body", "body": document})


def _network(address: str) -> str:
    """What one caller without a key is known by: its address, or the network of it in IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket has none
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:  # as a socket that listens on both families shows callers of the older one
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _IPV6_PREFIX), strict=False))
