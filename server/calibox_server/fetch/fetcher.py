"""Fetches images from allowed hosts: by httpx2's transport, asynchronously, so that one that is slow holds no thread.

A name is resolved here, every address that it has must be public, and the connection goes to one of those addresses:
what the name leads to a moment later does not matter (DNS rebinding). Certificates are checked for the name. A
redirect is an address like the first one. Neither the caller's credentials nor cookies nor proxies of the environment
are used, and a connection is used once: httpx2 would share it between names that have one address.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from ssl import SSLContext

import httpx2

from calibox_core import __version__
from calibox_core.images import SIGNATURE_BYTES, begins_like_an_image
from calibox_server.background import together
from calibox_server.errors import (
    AddressNotAllowedError,
    DeadlineError,
    FetchFailedError,
    FetchTimeoutError,
    TooManyBytesError,
    UnsupportedMediaTypeError,
)
from calibox_server.fetch.addresses import is_public
from calibox_server.fetch.hosts import AllowedHosts, host_of, read_url
from calibox_server.options import Options, items
from calibox_server.requests import DetectRequest

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "User-Agent": f"calibox/{__version__}",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # images are compressed; a few bytes could become many
    "Connection": "close",
}
_MOST_ADDRESSES = 4  # of one name that are tried: with more, the first ones are as good
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Of fetching. Sizes in bytes, times in seconds."""

    bytes: int  # of one image
    seconds: float  # for one image, from its turn on and with every redirect
    redirects: int
    at_once: int  # of the whole process


class Room:
    """How many bytes may still come.

    Args:
        size: bytes.
        what: has them, for the sentence.
    """

    def __init__(self, size: int, what: str) -> None:
        self._size = self._left = size
        self._what = what

    def check(self, size: int) -> None:
        """Whether there is room for so many.

        Raises:
            TooManyBytesError: there is not.
        """
        if size > self._left:
            raise TooManyBytesError(f"{self._what} more than {self._size} bytes, the most that this server fetches")

    def take(self, size: int) -> None:
        """Takes the room of so many; raises as `check`."""
        self.check(size)
        self._left -= size


class Fetcher:
    """Fetches images.

    Args:
        hosts: that are fetched from.
        limits: of each image.
        resolve: addresses of a host; the system's resolver when None.
        is_allowed: whether an address may be connected to; only tests allow others than public ones.
        certificates: that are trusted; the usual ones when None.
    """

    def __init__(
        self,
        hosts: AllowedHosts,
        limits: FetchLimits,
        *,
        resolve: Resolve | None = None,
        is_allowed: Callable[[str], bool] = is_public,
        certificates: SSLContext | None = None,
    ) -> None:
        self._hosts = hosts
        self._limits = limits
        self._resolve = resolve or self._look_up
        self._is_allowed = is_allowed
        self._certificates = certificates
        self._turns = asyncio.Semaphore(limits.at_once)

    @cached_property
    def _transport(self) -> httpx2.AsyncHTTPTransport:
        return httpx2.AsyncHTTPTransport(
            verify=self._certificates or httpx2.create_ssl_context(),
            limits=httpx2.Limits(max_connections=self._limits.at_once, max_keepalive_connections=0),
            trust_env=False,
        )

    @cached_property
    def _lookups(self) -> ThreadPoolExecutor:
        # Threads of its own: a resolver that does not answer must not hold up the decoding.
        return ThreadPoolExecutor(self._limits.at_once, thread_name_prefix="resolve")

    async def fetch_into(self, asked: DetectRequest, *, max_bytes: int, seconds: float) -> DetectRequest:
        """A request with the bytes of the images that it names by address.

        Args:
            asked: what was read.
            max_bytes: of all of them together.
            seconds: after which the request's own time is over.

        Raises:
            ServiceError: the first that could not be fetched, and why; the others are given up.
            DeadlineError: there was no time left.
        """
        room = Room(max_bytes, "the images of this request have together")
        labels = [asked.images[place].label for place, _ in asked.urls]
        jobs = [self.fetch(url, room, label) for (_, url), label in zip(asked.urls, labels, strict=True)]
        try:
            async with asyncio.timeout(seconds):
                found = await together(jobs)
        except TimeoutError as error:
            raise DeadlineError("the deadline passed while images were fetched; allow more with timeout_ms") from error
        images = list(asked.images)
        for (place, _), data in zip(asked.urls, found, strict=True):
            images[place] = replace(images[place], data=data)
        return replace(asked, images=images, urls=())

    async def fetch(self, url: str, room: Room, label: str = "the image") -> bytes:
        """The bytes at an address.

        Args:
            url: as it was sent.
            room: of the request.
            label: what sentences call the image.

        Raises:
            AddressNotAllowedError: the host is not on the list, or leads to an address that is not public.
            FetchFailedError: no connection, another answer than 200, too many redirects, a compressed or empty body.
            FetchTimeoutError: it took too long.
            TooManyBytesError, UnsupportedMediaTypeError: it is too long, or no image; reading stops there.
        """
        address = self._checked(read_url(url))  # before it waits for its turn
        try:
            async with self._turns, asyncio.timeout(self._limits.seconds):
                return await self._follow(address, room)
        except TimeoutError as error:
            raise FetchTimeoutError(
                f"{label} did not come from {host_of(address)[:80]} within {self._limits.seconds:g} s"
            ) from error
        except httpx2.HTTPError as error:
            raise FetchFailedError(
                f"{label} could not be fetched from {host_of(address)[:80]} ({type(error).__name__})"
            ) from error

    def close(self) -> None:
        """Forgets its threads; what is being fetched was given up before."""
        if "_lookups" in vars(self):
            self._lookups.shutdown(wait=False, cancel_futures=True)

    def _checked(self, url: httpx2.URL) -> httpx2.URL:
        if not self._hosts:
            raise AddressNotAllowedError(
                "this server fetches no images; send the image itself, or ask whoever runs the server for --fetch-hosts"
            )
        self._hosts.check(url)
        return url

    async def _follow(self, url: httpx2.URL, room: Room) -> bytes:
        for _ in range(self._limits.redirects + 1):
            async with self._answer(url) as response:
                if response.status_code not in _REDIRECTS:
                    return await self._read(response, room)
                goal = response.headers.get("location", "")
            url = self._checked(read_url(str(url.join(goal)) if goal else ""))
        raise FetchFailedError(f"the address was redirected more than {self._limits.redirects} times")

    @asynccontextmanager
    async def _answer(self, url: httpx2.URL) -> AsyncIterator[httpx2.Response]:
        """The head of the answer at an address that was checked; the body may be read inside the block."""
        response = await self._ask(url, await self._addresses(url))
        try:
            yield response
        finally:
            await response.aclose()

    async def _addresses(self, url: httpx2.URL) -> Sequence[str]:
        host = host_of(url)
        try:
            found = await self._resolve(host, url.port or 0)
        except OSError as error:
            raise FetchFailedError(f"the name {host[:80]} has no address") from error
        if not found or not all(map(self._is_allowed, found)):
            raise AddressNotAllowedError(f"{host[:80]} does not lead to public addresses only; it is not fetched from")
        return found[:_MOST_ADDRESSES]

    async def _ask(self, url: httpx2.URL, addresses: Sequence[str]) -> httpx2.Response:
        """The answer of the first address that can be connected to."""
        extensions = {"sni_hostname": host_of(url)}
        headers = {"Host": url.netloc.decode("ascii"), **_HEADERS}
        for address in addresses:
            request = httpx2.Request("GET", url.copy_with(host=address), headers=headers, extensions=extensions)
            try:
                return await self._transport.handle_async_request(request)
            except httpx2.ConnectError:
                if address == addresses[-1]:
                    raise
        raise AssertionError("there is at least one address")

    async def _read(self, response: httpx2.Response, room: Room) -> bytes:
        if response.status_code != httpx2.codes.OK:
            raise FetchFailedError(f"the host of the image answered {response.status_code}, not 200")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise FetchFailedError("the host of the image sent it compressed, though it was asked not to")
        announced = response.headers.get("content-length", "")
        own = Room(self._limits.bytes, "the image at this address has")
        own.check(int(announced[:20]) if announced.isdecimal() else 0)
        chunks: list[bytes] = []
        head = b""
        async for chunk in response.aiter_raw():
            own.take(len(chunk))
            room.take(len(chunk))
            chunks.append(chunk)
            if len(head) < SIGNATURE_BYTES:
                head += chunk[:SIGNATURE_BYTES]
                _check_head(head)
        if not head:
            raise FetchFailedError("the host of the image sent an empty body")
        return b"".join(chunks)

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._lookups, look)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _check_head(head: bytes) -> None:
    """Refuses what is no image as soon as that can be told, so that nobody downloads anything else through here."""
    if len(head) >= SIGNATURE_BYTES and not begins_like_an_image(head):
        raise UnsupportedMediaTypeError("the host of the image sent something that is not an image that is read")


def make_fetcher(settings: Options) -> Fetcher:
    """What the settings ask for; without hosts it refuses every address.

    Raises:
        FetchHostsError: an entry of the list of hosts is not accepted.
    """
    limits = FetchLimits(
        bytes=settings.fetch_max_bytes,
        seconds=settings.fetch_timeout_s,
        redirects=settings.fetch_redirects,
        at_once=settings.fetch_at_once,
    )
    return Fetcher(AllowedHosts.parse(items(settings.fetch_hosts)), limits)
