# SPDX-License-Identifier: Apache-2.0
"""Proxies and certificates of the environment mean the same on a worker and in the triggerer."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_provider_gemini_batch.api.wire import HttpRequest
from airflow_provider_gemini_batch.connection.settings import Secret
from airflow_provider_gemini_batch.errors import ConfigurationError, TransportError
from airflow_provider_gemini_batch.transport.environment import ProxySettings
from tests.support.odd_server import ScriptedServer, reply
from tests.transport.test_drivers import Drive, Start, drive, once, start

__all__ = ["drive", "start"]  # fixtures

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", *CA_VARIABLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# --- which proxy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("fd00::/8", "http://[fd12:3456::1]:8080/v1", True),
        ("fd00::/8", "http://[fe80::1]/v1", False),
        ("localhost,127.0.0.1,fd00::/8", "http://127.0.0.1:9000/v1", True),
        ("10.0.0.0/8", "http://10.200.3.4/v1", True),
        ("10.0.0.0/8", "http://11.0.0.1/v1", False),
        ("10.0.0.0/8", "http://[fd00::1]/v1", False),
        ("::1", "http://[::1]:1/v1", True),
        ("[::1]", "http://[::1]:1/v1", True),
        ("[::1]:8080", "http://[::1]:8080/v1", True),
        ("[::1]:8080", "http://[::1]:8081/v1", False),
        ("FD00:0::1", "http://[fd00::1]/v1", True),
        ("127.0.0.1", "http://127.0.0.1:9000/v1", True),
        ("127.0.0.1:9001", "http://127.0.0.1:9000/v1", False),
        ("27.0.0.1", "http://127.0.0.1/v1", False),
        (" localhost , example.org ", "https://api.example.org/v1", True),
        ("localhost example.org", "https://api.example.org/v1", True),
        (".example.org", "https://api.example.org/v1", True),
        (".example.org", "https://example.org/v1", True),
        ("*.example.org", "https://api.example.org/v1", True),
        ("example.org", "https://notexample.org/v1", False),
        ("Example.ORG", "https://API.example.org./v1", True),
        ("example.org:443", "https://example.org/v1", True),
        ("example.org:8443", "https://example.org/v1", False),
        ("*", "https://example.org/v1", True),
        (",, ,", "https://example.org/v1", False),
        ("not an/address, 300.1.2.3/8, [", "http://10.0.0.1/v1", False),
    ],
)
def test_no_proxy_covers_hosts_domains_ranges_and_ports(no_proxy: str, url: str, is_direct: bool) -> None:
    settings = ProxySettings(dict.fromkeys(("http", "https"), Secret("http://proxy:3128")), no_proxy)
    assert (settings.proxy_for(url) is None) is is_direct


def test_lower_case_and_all_proxy_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "proxy:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://upper:1")
    monkeypatch.setenv("https_proxy", "http://lower:1")
    settings = ProxySettings.read()
    assert settings.proxy_for("http://example.org/") == "http://proxy:3128"
    assert settings.proxy_for("https://example.org/") == "http://lower:1"


@pytest.mark.parametrize("value", [" http://proxy:1", "http://proxy:1\n", "\tproxy:1 \r\n"])
def test_a_proxys_url_is_read_without_blanks_around_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert ProxySettings.read().proxy_for("https://example.org/") == "http://proxy:1"


def test_proxy_settings_show_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy:1")
    assert "hunter2" not in repr(ProxySettings.read())


def test_an_ipv6_range_does_not_disturb_a_call(drive: Drive, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = start(), start()
    monkeypatch.setenv("http_proxy", f"http://us%40er:p%2Fw@127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "localhost,fd00::/8")
    drive(once(HttpRequest("GET", f"{server.url}/v1")))
    assert (len(server.seen), len(proxy.seen)) == (0, 1)
    assert proxy.seen[0].headers["proxy-authorization"] == "Basic dXNAZXI6cC93"
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.0/8,fd00::/8")
    drive(once(HttpRequest("GET", f"{server.url}/v1")))
    assert (len(server.seen), len(proxy.seen)) == (1, 1)


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("ftp://127.0.0.1:1", "proxy"),
        ("http://", "proxy"),
        ("http://[::1", "proxy"),
        ("socks://127.0.0.1:1080/", "socks5h://"),
    ],
)
def test_a_proxy_that_cannot_be_one_is_our_own_error(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, proxy: str, said: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ConfigurationError, match=said):
        drive(once(HttpRequest("GET", "http://service.invalid/v1")))


def test_a_socks_proxy_is_used_or_its_library_is_named(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer() -> None:
            # Nobody comes where the library is missing, and the end of the test ends the wait.
            with contextlib.suppress(OSError), proxy.accept()[0] as connection:
                asked.append(connection.recv(99))

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("ALL_PROXY", f"socks5h://me:pw@127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises((TransportError, ConfigurationError)) as caught:
            drive(once(HttpRequest("GET", "http://service.invalid/v1")), timeout=2)
    if isinstance(caught.value, ConfigurationError):
        assert "PySocks" in str(caught.value)
    else:
        assert asked[0][:1] == b"\x05"


# --- which certificates ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a company's own authority, ``ca.pem``, and a server's certificate, ``server.pem``."""
    folder = tmp_path_factory.mktemp("company")
    now = datetime.datetime.now(datetime.UTC)

    def builder(name: str, key: ec.EllipticCurvePrivateKey, issuer: str) -> x509.CertificateBuilder:
        return x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
            key.public_key(), x509.random_serial_number(), now - datetime.timedelta(1), now + datetime.timedelta(9),
        )  # fmt: skip

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = builder("Company", ca_key, "Company").add_extension(x509.BasicConstraints(True, None), critical=True)
    ca = ca.add_extension(usage, critical=True).add_extension(identifier, critical=False)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    server = builder("server", key, "Company").add_extension(names, critical=False)
    server = server.add_extension(authority, critical=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + server.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    return folder


@pytest.fixture
def server(company: Path, start: Start) -> ScriptedServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(company / "server.pem")
    return start(reply(body=b"{}"), tls=context)


def _hashed(ca: Path, folder: Path) -> Path:
    """Return a folder as OpenSSL looks certificates up in: by the hash of their subject."""
    folder.mkdir()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    done = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", str(ca)], capture_output=True, check=True)
    (folder / f"{done.stdout.decode().strip()}.0").write_bytes(ca.read_bytes())
    return folder


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_each_variable_makes_a_companys_authority_trusted(
    drive: Drive,
    server: ScriptedServer,
    company: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    with pytest.raises(TransportError, match="certificate is not trusted"):
        drive(once(HttpRequest("GET", f"{server.url}/v1")))
    ca = company / "ca.pem"
    place = _hashed(ca, tmp_path / "hashed") if variable == "SSL_CERT_DIR" else ca
    monkeypatch.setenv(variable, f" {place}\n")  # as a file that a secret was mounted from ends
    assert drive(once(HttpRequest("GET", f"{server.url}/v1"))).status == 200


def test_a_bundle_for_requests_wins_over_that_of_openssl(
    drive: Drive, server: ScriptedServer, company: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import certifi

    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(company / "ca.pem"))
    assert drive(once(HttpRequest("GET", f"{server.url}/v1"))).status == 200


def test_of_two_variables_of_openssl_one_may_name_nothing(
    drive: Drive, server: ScriptedServer, company: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(company / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(company / "missing"))
    assert drive(once(HttpRequest("GET", f"{server.url}/v1"))).status == 200


@pytest.mark.parametrize("variable", CA_VARIABLES)
@pytest.mark.parametrize("kind", ["missing", "no certificate"])
def test_a_variable_that_names_no_certificates_is_named(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, kind: str
) -> None:
    place = tmp_path / "bundle"
    if kind == "no certificate":
        if variable == "SSL_CERT_DIR":
            pytest.skip("OpenSSL reads a folder when it looks for a certificate")
        place.write_text("nothing of use")
    monkeypatch.setenv(variable, str(place))
    with pytest.raises(ConfigurationError, match=f"{variable} names {place}"):
        drive(once(HttpRequest("GET", "https://127.0.0.1:1/v1")))


def test_plain_http_needs_no_certificates(drive: Drive, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull + "/missing")
    assert drive(once(HttpRequest("GET", f"{start().url}/v1"))).status == 200


def test_a_token_request_trusts_the_same_certificates(
    server: ScriptedServer, company: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_gemini_batch.transport.sessions import NetworkSession

    monkeypatch.setenv("SSL_CERT_FILE", str(company / "ca.pem"))
    with NetworkSession() as session:
        assert session.get(f"{server.url}/token", timeout=5).status_code == 200
