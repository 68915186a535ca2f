"""Makes a stream of a client's settings; says what to install where its package is not there."""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from calibox_client.errors import MissingPackageError
from calibox_client.exchange import check_timeout
from calibox_client.images import Encoding, ImageInput, check_encoding
from calibox_client.requests import parameter_values
from calibox_client.retries import Patience
from calibox_client.streaming.answers import FrameAnswer
from calibox_client.streaming.flow import FEWEST_AHEAD, Flow

if TYPE_CHECKING:
    from calibox_client.streaming.socket import StreamRequest

DEFAULT_AHEAD = 4  # twice the server's default of --stream-frames, so that it never idles and never drops


def stream_request(
    url: str,
    headers: Mapping[str, str],
    frames: Iterable[ImageInput] | AsyncIterable[ImageInput],
    encoding: Encoding,
    timeout: float,
    parameters: Mapping[str, Any],
) -> "StreamRequest":
    """The settings of a stream, checked.

    Raises:
        MissingPackageError: the package websockets is not installed.
        TypeError, ValueError: a parameter that does not exist, or an argument out of its range.
    """
    try:
        from calibox_client.streaming.socket import StreamRequest
    except ImportError as error:
        raise MissingPackageError(
            "stream() needs the package websockets; install it with: pip install 'calibox[video]'"
        ) from error
    values = parameter_values(parameters)
    return StreamRequest(url, headers, values, frames, check_encoding(encoding), check_timeout(timeout))


def stream_with(
    request: "StreamRequest",
    patience: Patience,
    sleep: Callable[[float], Awaitable[None]],
    *,
    live: bool,
    ahead: int,
) -> Callable[[], AsyncGenerator[FrameAnswer]]:
    """What opens the stream, to be called in the event loop that it is to run in.

    Raises:
        ValueError: ``ahead`` is too small.
    """
    from calibox_client.streaming.socket import FrameStream

    if ahead < FEWEST_AHEAD:
        raise ValueError(f"ahead must be at least {FEWEST_AHEAD}, got {ahead}")
    flow = Flow(ahead=ahead, live=live, attempts=patience.policy.attempts)
    return partial(_answers, FrameStream, request, flow, patience, sleep)


def _answers(stream: Any, *arguments: Any) -> AsyncGenerator[FrameAnswer]:
    answers: AsyncGenerator[FrameAnswer] = stream(*arguments).answers()
    return answers
