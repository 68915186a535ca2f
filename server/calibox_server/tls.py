"""HTTPS: the server's certificate, and callers' where an authority is named."""

import ssl
from collections.abc import Callable
from typing import TypeVar

from calibox_core.errors import CaliboxError
from calibox_server.options import Options
from calibox_server.rereading import Reread

T = TypeVar("T")


class TlsError(CaliboxError):
    """A certificate, key or authority cannot be used; the text names the file's setting."""


def make_context(settings: Options) -> ssl.SSLContext | None:
    """What TLS needs, 1.2 or newer; None where the settings name no certificate.

    Raises:
        TlsError: a file is missing, not PEM, or the key is of another certificate; a key without a certificate.
    """
    certificate, key, authority = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None:
        if key is not None or authority is not None:
            raise TlsError("tls_key and tls_client_ca need a certificate; name it with --tls-certificate")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_refuse_encrypted)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(
            f"tls_certificate {certificate} and tls_key {key or 'in the same file'} cannot be used: {_why(error)}"
        ) from error
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"tls_client_ca {authority} cannot be used: {_why(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def make_renewed_context(settings: Options) -> ssl.SSLContext | None:
    """`make_context`, whose connections get what its files say when they are opened.

    Raises:
        TlsError: as `make_context`.
    """
    context = make_context(settings)
    if context is None:
        return None
    renewed = renew(settings, lambda: make_context(settings))

    def choose(connection: ssl.SSLObject, _: str, __: ssl.SSLContext) -> None:
        found = renewed.current()
        if found is not None:
            connection.context = found

    context.sni_callback = choose  # called whether or not a name was sent
    return context


def renew(settings: Options, read: Callable[[], T]) -> Reread[T]:
    """What ``read`` makes of the files that the settings name, again whenever they change."""
    files = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return Reread("certificates", [file for file in files if file is not None], read)


def _refuse_encrypted() -> str:
    # Without this OpenSSL would ask on the terminal, and a server that nobody watches would hang.
    raise TlsError("tls_key is encrypted; give a key without a passphrase, readable for this server only")


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a PEM file, or not one that belongs to the other ({error.reason or error})"
    return f"{error.strerror}"
