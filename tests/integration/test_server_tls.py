"""HTTPS with certificates that the test makes."""

import http.client
import ssl
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
import trustme
from tritonclient.utils import InferenceServerException

from calibox_server import rereading
from calibox_server.options import Options
from calibox_server.serve import Server
from calibox_server.service import Service
from calibox_server.settings import Settings
from calibox_server.tls import TlsError, make_context
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import grpc_address, live_server, running
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(), "JPEG")


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


def test_certificates_are_read_again_when_they_change(
    models: Path, certificate: Path, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rereading, "LOOK_S", 0.0)
    file, callers, new = tmp_path / "server.pem", tmp_path / "callers.pem", trustme.CA()

    def caller(server: trustme.CA, of: trustme.CA) -> ssl.SSLContext:
        context = trusting(server)
        of.issue_cert("caller.example").configure_cert(context)
        return context

    file.write_bytes(certificate.read_bytes())
    authority.cert_pem.write_to_path(callers)
    with live_server(models, tls_certificate=file, tls_client_ca=callers) as url:
        assert detect(url, caller(authority, authority)) == 200
        file.write_text("half a certificate")
        assert detect(url, caller(authority, authority)) == 200  # what was read before
        new.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
        assert detect(url, caller(new, authority)) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            detect(url, caller(authority, authority))
        new.cert_pem.write_to_path(callers)
        assert detect(url, caller(new, new)) == 200
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            detect(url, caller(new, authority))


def test_grpc_reads_its_certificates_again_too(
    models: Path, certificate: Path, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rereading, "LOOK_S", 0.0)
    file, new = tmp_path / "server.pem", trustme.CA()
    file.write_bytes(certificate.read_bytes())
    service = Service.load(Settings(models=models, grpc_port=0, tls_certificate=file, log_level="warning"))

    def live(server: Server, of: trustme.CA) -> bool:
        options = triton.KeepAliveOptions()  # makes each client open a connection of its own
        with triton.InferenceServerClient(
            grpc_address(server),
            creds=grpc.ssl_channel_credentials(of.cert_pem.bytes()),
            keepalive_options=options,
            channel_args=[("grpc.use_local_subchannel_pool", 1)],
        ) as client:
            try:
                return bool(client.is_server_live(client_timeout=PATIENCE_S))
            except InferenceServerException:
                return False

    with running(service) as server:
        assert (live(server, authority), live(server, new)) == (True, False)
        file.write_text("half a certificate")
        assert live(server, authority)
        new.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
        assert (live(server, authority), live(server, new)) == (False, True)


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
