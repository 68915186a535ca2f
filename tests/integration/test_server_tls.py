"""HTTPS with certificates that the test makes."""

import http.client
import ssl
from pathlib import Path

import pytest
import trustme

from calibox_server.options import Options
from calibox_server.tls import TlsError, make_context
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(), "JPEG")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return path


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def detect(url: str, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", int(url.rpartition(":")[2]), context=context, timeout=PATIENCE_S
    )
    try:
        connection.request("POST", "/v1/detect", JPEG, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_a_caller_that_trusts_the_authority_is_answered(models: Path, certificate: Path, authority: trustme.CA) -> None:
    with live_server(models, tls_certificate=certificate) as url:
        assert detect(url, trusting(authority)) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            detect(url, trusting(trustme.CA()))
        old = trusting(authority)
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            detect(url, old)


def test_limits_hold_under_tls(models: Path, certificate: Path, authority: trustme.CA) -> None:
    with live_server(models, tls_certificate=certificate, max_headers=8) as url:
        port = int(url.rpartition(":")[2])
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusting(authority), timeout=PATIENCE_S)
        connection.request("GET", "/livez", headers={f"X-{i}": "1" for i in range(9)})
        assert connection.getresponse().status == 431
        connection.close()


def test_with_a_client_authority_only_callers_with_its_certificate_are_answered(
    models: Path, certificate: Path, authority: trustme.CA, tmp_path: Path
) -> None:
    callers = trustme.CA()
    callers.cert_pem.write_to_path(tmp_path / "callers.pem")
    with live_server(models, tls_certificate=certificate, tls_client_ca=tmp_path / "callers.pem") as url:
        known, stranger, nobody = trusting(authority), trusting(authority), trusting(authority)
        callers.issue_cert("caller.example").configure_cert(known)
        trustme.CA().issue_cert("caller.example").configure_cert(stranger)
        assert detect(url, known) == 200
        for context in (stranger, nobody):
            with pytest.raises((ssl.SSLError, ConnectionError)):  # whichever the client sees first
                detect(url, context)


def test_what_is_wrong_with_the_files_is_a_sentence(certificate: Path, authority: trustme.CA, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(other)
    text = tmp_path / "text.pem"
    text.write_text("hello")
    for settings, sentence in (
        ({"tls_certificate": tmp_path / "none.pem"}, r"tls_certificate .*none\.pem .* cannot be used: No such file"),
        ({"tls_certificate": text}, r"cannot be used: not a PEM file, or not one that belongs to the other"),
        (
            {"tls_certificate": certificate, "tls_key": other},
            r"tls_key .*other\.pem cannot be used: .*KEY_VALUES_MISMATCH",
        ),
        ({"tls_certificate": certificate, "tls_client_ca": text}, r"tls_client_ca .*text\.pem cannot be used"),
        ({"tls_key": other}, r"need a certificate; name it with --tls-certificate"),
    ):
        with pytest.raises(TlsError, match=sentence):
            make_context(Options.model_validate(settings))


def test_an_encrypted_key_is_refused_and_nobody_is_asked_on_the_terminal(certificate: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as forms

    pem = certificate.read_bytes()
    key = forms.load_pem_private_key(pem, None)
    encrypted = key.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "key.pem").write_bytes(encrypted)
    settings = {"tls_certificate": certificate, "tls_key": tmp_path / "key.pem"}
    with pytest.raises(TlsError, match="tls_key is encrypted"):
        make_context(Options.model_validate(settings))


def test_without_a_certificate_there_is_no_tls() -> None:
    assert make_context(Options()) is None
