"""Both clients use the environment's proxies and CA bundles alike, over real sockets."""

from __future__ import annotations

import shutil
import subprocess
from urllib.parse import urlsplit

import certifi
import pytest

from airflow_provider_sim.client import async_client as asyncio_client
from airflow_provider_sim.client.retry import NO_RETRY
from airflow_provider_sim.client.transport import proxy_for
from airflow_provider_sim.exceptions import Outcome, SimConfigurationError, SimConnectionError
from tests.canned_server import Answer, CannedServer, closed_port
from tests.certificates import authority
from tests.client.conftest import KEY
from tests.forward_proxy import forward_proxy

USAGE = Answer(200, {"success": True, "rateLimit": {}, "usage": {"plan": "free"}})


@pytest.fixture
def proxy():
    with forward_proxy() as running:
        yield running


@pytest.fixture
def server():
    with CannedServer(USAGE) as running:
        yield running


@pytest.fixture
def tls_server(tmp_path, monkeypatch):
    """A server whose certificate is signed by the CA in ``tmp_path``."""
    monkeypatch.setattr(asyncio_client, "_ssl_context", asyncio_client._ssl_context.__wrapped__)  # no cache
    with CannedServer(USAGE, tls=authority(tmp_path / "ca.pem")) as running:
        yield running


PROXIED = {
    "lower case": ("127.0.0.1", {"http_proxy": "{proxy}"}),
    "upper case": ("127.0.0.1", {"HTTP_PROXY": "{proxy}"}),
    "for all schemes": ("127.0.0.1", {"all_proxy": "{proxy}"}),
    "for all schemes, upper case": ("127.0.0.1", {"ALL_PROXY": "{proxy}"}),
    "without a scheme": ("127.0.0.1", {"http_proxy": "{address}"}),
    "lower case first": ("127.0.0.1", {"http_proxy": "{proxy}", "HTTP_PROXY": "http://127.0.0.1:9"}),
    "scheme before all": ("127.0.0.1", {"http_proxy": "{proxy}", "all_proxy": "http://127.0.0.1:9"}),
    "host name": ("sim.test", {"http_proxy": "{proxy}"}),
    "IPv6": ("[::1]", {"http_proxy": "{proxy}"}),
    "another host in no_proxy": ("sim.test", {"http_proxy": "{proxy}", "no_proxy": "example.com,other.test"}),
    "another network": ("127.0.0.1", {"http_proxy": "{proxy}", "no_proxy": "10.0.0.0/8"}),
    "another port": ("sim.test", {"http_proxy": "{proxy}", "no_proxy": "sim.test:1"}),
    "another port of an address": ("127.0.0.1", {"http_proxy": "{proxy}", "no_proxy": "127.0.0.1:1"}),
    "another IPv6 network": ("[::1]", {"http_proxy": "{proxy}", "no_proxy": "fd00::/8"}),
    "another IPv6 port": ("[::1]", {"http_proxy": "{proxy}", "no_proxy": "[::1]:1"}),
}
DIRECT = {
    "no proxy": ("127.0.0.1", {}),
    "a proxy for https": ("127.0.0.1", {"https_proxy": "{proxy}"}),
    "wildcard": ("sim.test", {"no_proxy": "*"}),
    "upper case": ("sim.test", {"NO_PROXY": "sim.test"}),
    "list with spaces": ("sim.test", {"no_proxy": "example.com , sim.test"}),
    "domain": ("sim.test", {"no_proxy": "test"}),
    "leading dot": ("sim.test", {"no_proxy": ".test"}),
    "leading dot of the host itself": ("sim.test", {"no_proxy": ".sim.test"}),
    "host with port": ("sim.test", {"no_proxy": "sim.test:{port}"}),
    "address": ("127.0.0.1", {"no_proxy": "127.0.0.1"}),
    "address with port": ("127.0.0.1", {"no_proxy": "127.0.0.1:{port}"}),
    "network": ("127.0.0.1", {"no_proxy": "127.0.0.0/8"}),
    "IPv6 address": ("[::1]", {"no_proxy": "::1"}),
    "IPv6 address in brackets": ("[::1]", {"no_proxy": "[::1]"}),
    "IPv6 address with port": ("[::1]", {"no_proxy": "[::1]:{port}"}),
    "IPv6 network": ("[::1]", {"no_proxy": "::/8"}),
}


@pytest.mark.parametrize(
    ("host", "env", "proxied"),
    [
        *(pytest.param(*row, True, id=f"proxied: {name}") for name, row in PROXIED.items()),
        *(pytest.param(host, {"all_proxy": "{proxy}", **env} if "no_proxy" in str(env).lower() else env, False, id=name)
          for name, (host, env) in DIRECT.items()),
    ],
)  # fmt: skip
def test_proxy_variables_decide_which_hosts_are_proxied(connect, monkeypatch, proxy, server, host, env, proxied):
    port, address = urlsplit(server.url).port, proxy.url.removeprefix("http://")
    for name, value in env.items():
        monkeypatch.setenv(name, value.format(proxy=proxy.url, address=address, port=port))
    client = connect(f"http://{host}:{port}", timeout=5, retry=NO_RETRY)
    if proxied or host == "127.0.0.1":
        assert client.get_usage_limits().plan == "free"
    else:  # nothing listens there, but at the proxy
        with pytest.raises(SimConnectionError):
            client.get_usage_limits()
    assert bool(proxy.requests) is proxied


@pytest.mark.parametrize("through_tls", [False, True], ids=["http proxy", "https proxy"])
def test_https_request_tunnels_through_an_authenticated_proxy(connect, monkeypatch, tmp_path, tls_server, through_tls):
    """The proxy's own certificate is verified with the same CA bundle."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "both.pem"))
    context = authority(tmp_path / "proxy.pem")
    (tmp_path / "both.pem").write_bytes((tmp_path / "ca.pem").read_bytes() + (tmp_path / "proxy.pem").read_bytes())
    with forward_proxy(context if through_tls else None) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("://", "://user:p%40ss@"))
        assert connect(tls_server.url).get_usage_limits().plan == "free"
    assert [line.split(" ")[:2] for line in proxy.requests] == [["CONNECT", urlsplit(tls_server.url).netloc]]
    assert [text.rpartition(" ")[2] for text in proxy.credentials] == ["dXNlcjpwQHNz"]


def test_file_download_uses_the_proxy_for_its_host(connect, monkeypatch, proxy, server):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "sim.test")
    port = urlsplit(server.url).port
    client = connect(f"http://sim.test:{port}")
    assert b"".join(client.pieces(f"http://files.test:{port}/a"))
    assert proxy.requests == [f"GET http://files.test:{port}/a HTTP/1.1"]


@pytest.mark.parametrize(
    ("proxy_url", "message"),
    [
        ("socks5://127.0.0.1:9", r"socks5 proxy .* pip install 'requests\[socks\]' 'httpx\[socks\]'"),
        ("socks5h://127.0.0.1:9", "socks5h proxy"),
        ("socks4://127.0.0.1:9", "scheme 'socks4'; it can be http, https, socks5, socks5h"),
        ("http://proxy:port", "not a URL"),
        ("http://", "not a URL"),
    ],
)
def test_unusable_proxy_url_is_a_configuration_error(connect, monkeypatch, proxy_url, message):
    monkeypatch.setenv("all_proxy", proxy_url)
    monkeypatch.setattr("airflow_provider_sim.client.transport.find_spec", lambda name: None)
    client = connect("http://sim.test")
    with pytest.raises(SimConfigurationError, match=message) as caught:
        client.get_usage_limits()
    assert caught.value.outcome is Outcome.NEVER_SENT
    assert client.sleeps == []
    with pytest.raises(SimConfigurationError, match=message):
        list(client.pieces("http://files.test/a"))


def test_unreachable_proxy_is_a_connection_error(connect, monkeypatch):
    monkeypatch.setenv("all_proxy", f"http://user:secret@127.0.0.1:{closed_port()}")
    with pytest.raises(SimConnectionError, match="network and proxy") as caught:
        connect("http://sim.test", retry=NO_RETRY).get_usage_limits()
    assert caught.value.outcome is Outcome.NEVER_SENT
    assert "secret" not in str(caught.value)


def test_socks_proxy_is_used_if_package_is_installed(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5h://127.0.0.1:1080")
    monkeypatch.setattr("airflow_provider_sim.client.transport.find_spec", lambda name: object())
    assert proxy_for("http://sim.test", socks_package="socks") == "socks5h://127.0.0.1:1080"


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_ca_bundle_variable_is_trusted(connect, monkeypatch, tmp_path, tls_server, name):
    with pytest.raises(SimConnectionError, match="doesn't trust"):
        connect(tls_server.url).get_usage_limits()
    monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    client = connect(tls_server.url)
    assert client.get_usage_limits().plan == "free"
    assert b"".join(client.pieces(f"{tls_server.url}/file"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl names the files of such a folder")
@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"])
def test_ca_folder_variable_is_trusted(connect, monkeypatch, tmp_path, tls_server, name):
    folder = tmp_path / "certs"
    folder.mkdir()
    command = ["openssl", "x509", "-subject_hash", "-noout", "-in", str(tmp_path / "ca.pem")]
    hashed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(tmp_path / "ca.pem", folder / f"{hashed}.0")
    monkeypatch.setenv(name, str(folder))
    assert connect(tls_server.url).get_usage_limits().plan == "free"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_ca_bundle_precedence(connect, monkeypatch, tmp_path, tls_server):
    """The connection, then the variables of requests, then those of OpenSSL."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with pytest.raises(SimConnectionError, match="doesn't trust"):
        connect(tls_server.url).get_usage_limits()
    assert connect(tls_server.url, verify=str(tmp_path / "ca.pem")).get_usage_limits().plan == "free"
    assert connect(tls_server.url, verify=False).get_usage_limits().plan == "free"


@pytest.mark.parametrize("variable", [None, "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_missing_ca_bundle_is_a_configuration_error(connect, monkeypatch, tls_server, variable):
    path = "/nowhere/ca.pem"
    if variable:
        monkeypatch.setenv(variable, path)
    client = connect(tls_server.url, verify=True if variable else path)
    with pytest.raises(
        SimConfigurationError, match=f"{variable or 'verify'}.* {path!r}, which doesn't exist"
    ) as caught:
        client.get_usage_limits()
    assert KEY not in str(caught.value)
    assert tls_server.requests == []
