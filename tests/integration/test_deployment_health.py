"""The health check of the images, asked of real servers."""

from pathlib import Path

from tests.support.deployment import health_check
from tests.support.live_server import live_server


def test_a_server_that_is_ready_is_healthy_with_certificate_and_without(models: Path, certificate: Path) -> None:
    with live_server(models) as plain, live_server(models, tls_certificate=certificate) as encrypted:
        plain_port, encrypted_port = (int(url.rpartition(":")[2]) for url in (plain, encrypted))
        assert health_check(plain_port).returncode == 0
        assert health_check(encrypted_port, CALIBOX_TLS_CERTIFICATE=str(certificate)).returncode == 0
        assert health_check(encrypted_port).returncode == 1  # plain HTTP is no answer there
