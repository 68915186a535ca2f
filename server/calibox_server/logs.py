"""How log lines look, and the first of them: the settings."""

import logging
import sys

import structlog

from calibox_server.settings import Settings

log = structlog.get_logger()


def log_settings(settings: Settings) -> None:
    """A line for each place that settings come from; secrets are stars."""
    shown = settings.shown()
    for source in ("default", "file", "environment", "option"):  # what somebody decided stands last
        if source in shown:
            log.info("settings", source=source, **shown[source])


def configure_logs(settings: Settings) -> None:
    """Structured lines on stderr; uvicorn's own warnings go there too."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    json = settings.log_format == "json"
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    # Local variables are a caller's picture or key, and to show them takes half a second of the event loop.
    plain, as_fields = structlog.dev.plain_traceback, structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(as_fields), structlog.processors.JSONRenderer()]
        if json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    )
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # The connection says itself what was wrong, and with which code.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "Invalid HTTP request" not in str(record.msg))
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a malformed body is its sender's to know
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # so is a damaged image
