"""The allow-list of hosts. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import httpx2

from calibox_core.errors import CaliboxError
from calibox_server.errors import AddressNotAllowedError

MAX_URL = 2048  # characters; what browsers and proxies agree on
_PORTS = {"https": 443, "http": 80}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_ENTRY = re.compile(
    rf"((?P<scheme>https?)://)?(?P<host>(\*\.)?{_LABEL}(\.{_LABEL})*|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{{1,5}}))?", re.I
)


class FetchHostsError(CaliboxError):
    """An entry of the allow-list is not accepted; the text says which."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry."""

    scheme: str
    host: str  # in lower case; ".example.com" is every name below example.com
    port: int

    def allows(self, scheme: str, host: str, port: int) -> bool:
        """Whether an origin is this one, or one of these."""
        if (self.scheme, self.port) != (scheme, port):
            return False
        return host.endswith(self.host) if self.host.startswith(".") else host == self.host


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """What may be fetched from; nothing where there are no rules."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "AllowedHosts":
        """Entries such as ``images.example.com``, ``*.example.com``, ``cdn.example.com:8443``, ``http://10.example``.

        Raises:
            FetchHostsError: an entry is something else.
        """
        return cls(tuple(map(_rule, entries)))

    def __bool__(self) -> bool:
        return bool(self.rules)

    def check(self, url: httpx2.URL) -> None:
        """Lets an address pass.

        Raises:
            AddressNotAllowedError: no rule allows it, or it carries a name and password.
        """
        if url.userinfo:
            raise AddressNotAllowedError("an address with a name and password in it is not fetched; leave them out")
        host = host_of(url)
        port = url.port or _PORTS.get(url.scheme, 0)
        if not any(rule.allows(url.scheme, host, port) for rule in self.rules):
            raise AddressNotAllowedError(
                f"{url.scheme[:10]}://{host[:80]}:{port} is not among the hosts that this server fetches from; "
                "send the image itself"
            )


def read_url(text: str) -> httpx2.URL:
    """The address of a text, without its fragment.

    Raises:
        AddressNotAllowedError: not an absolute one of http or https.
    """
    try:
        if len(text) > MAX_URL:
            raise httpx2.InvalidURL("it is too long")
        url = httpx2.URL(text).copy_with(fragment=None)
    except httpx2.InvalidURL as error:
        raise AddressNotAllowedError(
            f"this is not an address of an image ({error}); it has at most {MAX_URL} "
            "characters and begins with https://"
        ) from error
    if url.scheme not in _PORTS or not url.host:
        raise AddressNotAllowedError("the address of an image begins with https:// and names a host")
    return url


def host_of(url: httpx2.URL) -> str:
    """The host as it is looked up: in ASCII and lower case, without the dot that may end it."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _rule(entry: str) -> Rule:
    found = _ENTRY.fullmatch(entry)
    port = int(found["port"] or _PORTS[(found["scheme"] or "https").lower()]) if found else 0
    if found is None or not 0 < port < 2**16:
        raise FetchHostsError(
            f"fetch_hosts names {entry[:80]!r}, which is not a host; write images.example.com, *.example.com for all "
            "below it, with :port or http:// where it needs them"
        )
    return Rule((found["scheme"] or "https").lower(), found["host"].lower().strip("[]").removeprefix("*"), port)
