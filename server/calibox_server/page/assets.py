"""The page's files as answers, made once: bytes, content type, validator."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import Response

INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but the page's own files; `blob:` shows a chosen picture, which never left the browser under another address.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    body: bytes
    headers: Mapping[str, str]

    @property
    def etag(self) -> str:
        """The validator, with its quotes."""
        return self.headers["ETag"]

    def is_fresh(self, if_none_match: str | None) -> bool:
        """Whether a browser that sends this `If-None-Match` has these bytes already (RFC 9110, 13.1.2)."""
        known = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
        return self.etag in known or known == ["*"]


def read_assets() -> dict[str, Asset]:
    """Every file of the page by name."""
    folder = files(__package__) / "static"
    return {file.name: make_asset(file.name, file.read_bytes()) for file in folder.iterdir()}


def make_asset(name: str, body: bytes, policy: str = CONTENT_SECURITY_POLICY) -> Asset:
    """An asset whose type is told by its name.

    Args:
        name, body: of the file.
        policy: what its `Content-Security-Policy` says.

    Raises:
        KeyError: a kind of file that the page has none of.
    """
    headers = {
        "Content-Type": _TYPES[PurePath(name).suffix],
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Cache-Control": "no-cache",  # kept, but asked for again: a new server must not meet the old page
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Asset(body, headers)


def answer(asset: Asset, request: Request) -> Response:
    """The file, or that the browser has it already."""
    if asset.is_fresh(request.headers.get("if-none-match")):
        return Response(status_code=304, headers=asset.headers)
    return Response(asset.body, headers=asset.headers)
