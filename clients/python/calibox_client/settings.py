"""What both clients are made with."""

from collections.abc import Mapping

from calibox_client.exchange import check_timeout, default_headers
from calibox_client.images import Encoding, check_encoding
from calibox_client.requests import check_base_url
from calibox_client.retries import Deadline, Patience, RetryObserver, RetryPolicy


class Settings:
    """Settings of a client, checked; arguments and errors are those of `Client`."""

    def __init__(
        self,
        url: str,
        timeout: float,
        retries: RetryPolicy | None,
        headers: Mapping[str, str] | None,
        encoding: Encoding,
        on_retry: RetryObserver | None,
    ) -> None:
        self.url = check_base_url(url)
        self.timeout = check_timeout(timeout)
        self._encoding = check_encoding(encoding)
        self._headers = default_headers(headers)
        self._patience = Patience.of(retries, on_retry)

    def _deadline(self, timeout: float | None) -> Deadline:
        """Of a call that begins now, with a time of its own or the client's."""
        return Deadline(self.timeout if timeout is None else check_timeout(timeout))
