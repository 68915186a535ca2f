"""Log lines: what failed is told with its place, and without what callers sent."""

from pathlib import Path

import pytest
import structlog

from calibox_server.logs import configure_logs
from calibox_server.settings import Settings


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_failure_is_told_without_local_variables(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(Settings(models=tmp_path, log_format=form))  # type: ignore[arg-type]

    def fail() -> None:
        picture = "what a caller " + "sent"
        raise RuntimeError(len(picture))

    try:
        fail()
    except RuntimeError as error:
        structlog.get_logger().error("request_failed", exc_info=error)
    told = capsys.readouterr().err
    assert "RuntimeError" in told
    assert "test_logs.py" in told
    assert "what a caller sent" not in told
