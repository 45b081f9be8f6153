"""Settings: read once, typed, from the environment or from files, and never shown in a message."""

import base64
from pathlib import Path

import pytest

from portal.errors import SettingInvalid
from portal.settings import Settings, read_settings

KEY = base64.b64encode(bytes(32)).decode()


def test_an_environment_without_settings_gives_the_defaults_and_no_secret() -> None:
    settings = read_settings({})
    assert settings.public_url == "http://127.0.0.1:8000"
    assert settings.secret_key is None
    assert settings.signer_key is None
    assert settings.rpc_urls == {}


def test_a_file_stands_for_a_value(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    assert read_settings({"PORTAL_SECRET_KEY_FILE": str(tmp_path / "key")}).secret_key == KEY
    with pytest.raises(SettingInvalid, match="PORTAL_SECRET_KEY_FILE"):
        read_settings({"PORTAL_SECRET_KEY_FILE": str(tmp_path / "nothing")})


def test_an_empty_variable_is_not_set() -> None:
    assert read_settings({"PORTAL_SECRET_KEY": "", "PORTAL_PORT": ""}) == read_settings({})


def test_what_a_command_is_given_comes_before_the_environment() -> None:
    settings = read_settings({"PORTAL_PORT": "1", "PORTAL_HOST": "::1"}, port=8101, host=None)
    assert (settings.port, settings.host) == (8101, "::1")


def test_nodes_are_listed_by_chain_in_order_of_preference() -> None:
    settings = read_settings({"PORTAL_CHAIN_RPC_URLS": "1=https://a.example, 31337=http://b ,1=https://c.example"})
    assert settings.rpc_urls == {1: ["https://a.example", "https://c.example"], 31337: ["http://b"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "hidden"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("SECRET_KEY", "hidden"),
        ("SECRET_KEY", base64.b64encode(b"hidden").decode()),
        ("SIGNER_KEY", "hidden hidden"),
        ("DATABASE_URL", "mysql://user:hidden@host/name"),
        ("DATABASE_URL", "hidden"),
        ("QUEUE_URL", "amqp://hidden"),
        ("BASE_URL", "hidden.example.org"),
        ("CHAIN_RPC_URLS", "wss://node/hidden"),
        ("CHAIN_RPC_URLS", "1=wss://node/hidden"),
        ("CHAIN_RPC_URLS", "one=https://node/hidden"),
        ("DATABASE_POOL_SIZE", "1"),
        ("LOG_LEVEL", "hidden"),
    ],
)
def test_a_wrong_value_is_named_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        read_settings({f"PORTAL_{name}": value})
    assert caught.value.detail.startswith(f"PORTAL_{name}: ")
    assert "hidden" not in caught.value.detail
    assert value not in caught.value.detail or value.isdecimal()


@pytest.mark.parametrize("url", ["redis://host:6379/0", "rediss://host/0", "postgresql://host/queue"])
def test_the_queue_may_be_redis_or_a_database(url: str) -> None:
    assert read_settings({"PORTAL_QUEUE_URL": url}).queue_url == url


def test_a_process_says_which_setting_it_misses() -> None:
    with pytest.raises(SettingInvalid, match="PORTAL_SECRET_KEY is not set"):
        Settings(database_url="postgresql://host/name").require("database_url", "secret_key")


def test_the_public_address_has_no_slash_at_its_end() -> None:
    assert read_settings({"PORTAL_BASE_URL": "https://portal.example/"}).public_url == "https://portal.example"


def test_a_trusted_proxy_that_is_no_address_is_named() -> None:
    with pytest.raises(SettingInvalid, match="'nginx' is no address"):
        read_settings({"PORTAL_TRUSTED_PROXIES": "10.0.0.1, nginx"})
