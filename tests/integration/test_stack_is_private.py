"""What other users of the machine, and pages in a browser, reach of the embedded stack: nothing without credentials."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path

import httpx
import psutil
import pytest

from ingestion_devstack.stack.seaweedfs import STATE_BUCKET, open_client
from ingestion_devstack.stack.stack import Stack
from ingestion_engine.runtime.settings import Settings


def find_ports(stack: Stack, program: str) -> set[int]:
    """Return the TCP ports on which a stack's processes with this name listen; other tests have theirs."""
    return {
        connection.laddr.port
        for process in psutil.Process().children(recursive=True)
        if process.name() == program and any(str(stack.data_dir) in word for word in process.cmdline())
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def answers_strangers(port: int) -> bool:
    """Return whether a client without a certificate gets an answer of HTTP or of gRPC on a port."""
    for scheme in ("http", "https"):
        try:
            answer = httpx.get(f"{scheme}://127.0.0.1:{port}/", verify=False, trust_env=False, timeout=5)
        except (httpx.HTTPError, ssl.SSLError):
            continue
        if answer.status_code != 400:  # "client sent an HTTP request to an HTTPS server"
            return True
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))  # as gRPC begins
        try:
            return plain.recv(9)[3:4] == b"\x04"  # a frame of settings: the server speaks to us
        except OSError:
            return False


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:  # type: ignore[misc]  # a generator for pytest
    before = os.umask(0o022)  # the usual one, whatever this machine has
    home = tmp_path_factory.mktemp("stack") / "data"
    home.mkdir(mode=0o755)
    (home / "logs").mkdir(mode=0o755)
    (home / "logs" / "s3.log").touch(0o644)
    settings = Settings(data_dir=home)
    with Stack(settings, only={"s3", "ollama", "qdrant", "weaviate"}, with_api=False) as running:
        yield running
    os.umask(before)


def test_only_the_s3_port_answers_without_a_certificate(stack: Stack) -> None:
    """The filer served and changed every bucket, the state's too; so did gRPC, master and volume server."""
    s3 = int(stack.services["s3"].url.rpartition(":")[2])
    ports = find_ports(stack, "weed")
    assert len(ports) >= 8
    assert {port for port in ports - {s3} if answers_strangers(port)} == set()
    assert httpx.get(stack.services["s3"].url, trust_env=False).status_code == 403


def test_nothing_of_the_state_can_be_read_or_changed_by_the_filer(stack: Stack, tmp_path: Path) -> None:
    """What was put by S3 is still there after a stranger has tried."""
    credentials_file = stack.data_dir / "credentials.json"
    assert credentials_file.stat().st_mode & 0o777 == 0o600
    settings = stack.settings.s3
    assert settings.endpoint_url is not None
    client = open_client(settings.endpoint_url, _Credentials(stack))
    client.put_object(Bucket=STATE_BUCKET, Key="jobs/job-1/spec.json", Body=b"spec")
    for port in find_ports(stack, "weed"):
        for method in ("DELETE", "POST"):
            for scheme in ("http", "https"):
                url = f"{scheme}://127.0.0.1:{port}/buckets/{STATE_BUCKET}/jobs/job-1/spec.json"
                try:
                    answer = httpx.request(method, url, content=b"x", verify=False, trust_env=False)
                except httpx.HTTPError:
                    continue
                assert answer.status_code in {400, 403, 405}, url
    assert client.get_object(Bucket=STATE_BUCKET, Key="jobs/job-1/spec.json")["Body"].read() == b"spec"


class _Credentials:
    """The stack's S3 keys, as its own clients take them."""

    def __init__(self, stack: Stack) -> None:
        s3 = stack.settings.s3
        assert s3.access_key_id is not None
        assert s3.secret_access_key is not None
        self.s3_access_key_id = s3.access_key_id.get_secret_value()
        self.s3_secret_access_key = s3.secret_access_key.get_secret_value()


def test_all_files_are_their_owners(stack: Stack) -> None:
    """Also in directories that an earlier version has made with mode 0755, and what the servers create."""
    assert stack.data_dir.stat().st_mode & 0o777 == 0o700
    open_to_others = [
        path.relative_to(stack.data_dir)
        for path in stack.data_dir.rglob("*")
        if not path.is_symlink()
        and not stat.S_ISSOCK(path.lstat().st_mode)
        and path.stat().st_mode & 0o077
        and path.suffix != ".vif"  # SeaweedFS sets their mode itself; they have the format of a volume, no data
    ]
    assert open_to_others == []


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}], ids=str
)
def test_a_page_of_another_site_gets_no_embeddings(stack: Stack, headers: dict[str, str]) -> None:
    """As from Ollama itself: no name of others, no foreign origin."""
    url = f"{stack.services['ollama'].url}/api/tags"
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 403
    assert httpx.get(url, headers={"Origin": "http://localhost:3000"}, trust_env=False).status_code == 200


@pytest.mark.parametrize("name", ["qdrant", "weaviate"])
def test_stores_ask_everybody_for_their_key(stack: Stack, name: str) -> None:
    """Reads and changes, of local users and of pages."""
    path = {"qdrant": "/collections/x", "weaviate": "/v1/schema"}[name]
    for method in ("GET", "PUT", "POST", "DELETE"):
        assert httpx.request(method, stack.services[name].url + path, trust_env=False).status_code == 401, method
