"""The health check of the images: exits 0 where the server inside this container answers `/readyz` with 200.

Needs nothing but Python's library, because the images have no curl. Reads where the server listens from the variables
that the server itself reads. The certificate of an HTTPS server is not checked, as nobody else is asked.
A server that wants certificates of its callers (`--tls-client-ca`) cannot be asked this way.
"""

import http.client
import os
import ssl
import sys

PATIENCE_S = 4.0  # below the 5 s that the images give this check as a whole


def connection() -> http.client.HTTPConnection:
    """To the server, as its own variables say; not opened yet."""
    port = int(os.environ.get("CALIBOX_PORT") or 8000)
    if not os.environ.get("CALIBOX_TLS_CERTIFICATE"):
        return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=unchecked)


def main() -> int:
    """0 where it is ready; else 1, and stderr says why."""
    server = connection()
    try:
        server.request("GET", "/readyz")
        answer = server.getresponse()
        if answer.status == http.client.OK:
            return 0
        why = f"{answer.status} {answer.read().decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        why = str(error)
    finally:
        server.close()
    sys.stderr.write(f"the server at {server.host}:{server.port} is not ready: {why}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
