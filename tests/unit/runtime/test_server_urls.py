"""Entries of INGEST_OLLAMA__URLS."""

from __future__ import annotations

import pytest

from ingestion_engine.runtime.server_urls import ServerUrl, count_servers, hide_credentials, parse_servers
from ingestion_engine.runtime.settings import Settings, SettingsError, load_settings


@pytest.mark.parametrize(
    ("entry", "server"),
    [
        ("http://a:11434", ServerUrl("http://a:11434")),
        (" http://a:11434/ ", ServerUrl("http://a:11434")),
        ("https://a/ollama/", ServerUrl("https://a/ollama")),
        ("http://a:11434#8", ServerUrl("http://a:11434", 8)),
        ("http://a:11434/#8", ServerUrl("http://a:11434", 8)),
        ("http://[::1]:11434#2", ServerUrl("http://[::1]:11434", 2)),
        ("dns+http://ollama:11434", ServerUrl("http://ollama:11434", is_name=True)),
        ("DNS+https://ollama#4", ServerUrl("https://ollama", 4, is_name=True)),
        ("dns+http://localhost:1", ServerUrl("http://localhost:1", is_name=True)),
    ],
)
def test_the_forms_of_an_entry(entry: str, server: ServerUrl) -> None:
    """One server, a declared capacity, every address of a name."""
    assert ServerUrl.parse(entry) == server


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ("http://a:11434#", "'#'"),
        ("http://a:11434#0", "'#0'"),
        ("http://a:11434#eight", "'#eight'"),
        ("http://a:11434#-1", "'#-1'"),
        ("http://a:11434#²", "'#²'"),
        ("http://a#11434", "'#11434'"),
        ("http://a:11434#8#9", "'#8#9'"),
        ("gpu1:11434", "write http://host:port"),
        ("ftp://a", "write http://host:port"),
        ("http://", "write http://host:port"),
        ("http://a:port", "is no URL"),
        ("http://a:99999", "is no URL"),
        ("http://a?x=1", "query"),
        ("dns+http://10.0.0.1:11434", "no host name after 'dns+'"),
        ("dns+http://[::1]:11434", "no host name after 'dns+'"),
        ("dns+http://me:secret@ollama", "no host name after 'dns+'"),
        ("dns+ollama:11434", "write http://host:port"),
    ],
)
def test_entries_that_are_refused(entry: str, part: str) -> None:
    """The message names the entry and says what it should be."""
    with pytest.raises(ValueError, match=r".") as refused:
        ServerUrl.parse(entry)
    assert repr(entry.replace("me:secret", "***")) in str(refused.value)
    assert part in str(refused.value)


def test_credentials_are_no_part_of_the_url() -> None:
    """The URL is for reports; a password may have an @."""
    server = ServerUrl.parse("https://me:sec@ret@ollama:11434/api#2")
    assert (server.url, server.credentials, server.host) == ("https://ollama:11434/api", "me:sec@ret", "ollama")
    assert "ret" not in repr(server)
    assert hide_credentials("https://me:sec@ret@ollama/api") == "https://ollama/api"


def test_addresses_take_the_place_of_the_name() -> None:
    """Port and path stay; IPv6 has brackets."""
    server = ServerUrl.parse("dns+https://ollama/api")
    assert server.at("10.0.0.7") == "https://10.0.0.7:443/api"
    assert ServerUrl.parse("dns+http://ollama:11434").at("fd00::7") == "http://[fd00::7]:11434"


def test_capacities_count_as_servers() -> None:
    """A name counts once, because its addresses are not known; duplicates count once."""
    assert count_servers(["http://a", "http://a/", "http://b#8", "dns+http://c:1", "dns+http://d:1#2"]) == 12
    assert [server.url for server in parse_servers(["http://b#2", "http://a", "http://b"])] == ["http://b", "http://a"]


def test_the_default_limit_counts_capacities() -> None:
    """Four for each of eight."""
    assert Settings(ollama={"urls": "http://a:11434#8"}).embed_in_flight == 32
    assert Settings(ollama={"urls": "http://a:11434"}).embed_in_flight == 4


def test_settings_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the part that is wrong."""
    monkeypatch.setenv("INGEST_OLLAMA__URLS", "http://a:11434#many")
    with pytest.raises(SettingsError, match=r"INGEST_OLLAMA__URLS.*'#many'"):
        load_settings()


def test_urls_of_gateways_are_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the service starts, not when the first job runs."""
    monkeypatch.setenv("INGEST_GATEWAY__URL", "http://a:11430, gateway:11430")
    with pytest.raises(SettingsError, match=r"INGEST_GATEWAY__URL.*'gateway:11430' is no server"):
        load_settings()


def test_specs_of_before_stay_readable() -> None:
    """Their URLs have no new form."""
    frozen = {"ollama": {"urls": ["http://a:11434", "https://b/ollama"]}}
    assert Settings().with_endpoints(frozen).ollama.urls == ("http://a:11434", "https://b/ollama")
