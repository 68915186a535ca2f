"""The address that a server listens on."""

import socket

from calibox_core.errors import CaliboxError
from calibox_server.options import ENV_PREFIX

BACKLOG = 2048  # connections that the kernel holds while the event loop is busy


def bind(host: str, port: int, option: str = "port") -> socket.socket:
    """A bound socket that does not listen yet; ``option`` is the setting that chose the port.

    Raises:
        CaliboxError: the address cannot be used; the text says what to do.
    """
    listener = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise CaliboxError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose another port with "
            f"--{option.replace('_', '-')} or {ENV_PREFIX}{option.upper()}, or another address with --host or "
            f"{ENV_PREFIX}HOST"
        ) from error
    return listener
