from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from app.core import config_parsers as parsers
from app.core.config_parsers import RateLimit, RedisServers

Parser = Callable[[str], Any]

MARK = "zq4711"


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parsers.boolean, "TRUE", True),
        (parsers.boolean, "1", True),
        (parsers.boolean, "yes", True),
        (parsers.boolean, "no", False),
        (parsers.integer(0, 10), "0", 0),
        (parsers.integer(0, 10), "10", 10),
        (parsers.rate_limit, "10/15min", RateLimit(10, 900)),
        (parsers.rate_limit, "20/h", RateLimit(20, 3600)),
        (parsers.rate_limit, "1/s", RateLimit(1, 1)),
        (parsers.rate_limit, "5/2d", RateLimit(5, 172_800)),
        (parsers.instance_id, "instance-1", "instance-1"),
        (parsers.host, "0.0.0.0", "0.0.0.0"),  # noqa: S104
        (parsers.host, "app-1.example.org", "app-1.example.org"),
        (parsers.host, "::1", "::1"),
        (parsers.host, "[::1]", "::1"),
        (parsers.redis_url, "redis://localhost:6379", "redis://localhost:6379"),
        (parsers.redis_url, "rediss://user:p4ss@host/1", "rediss://user:p4ss@host/1"),
        (parsers.redis_url, "unix:///run/redis.sock", "unix:///run/redis.sock"),
        (parsers.redis_url, "unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        (parsers.redis_url, "redis+cluster://host:7000,host:7001", "redis+cluster://host:7000,host:7001"),
        (parsers.redis_url, "rediss+sentinel://a:p4ss@host:26379/main/1", "rediss+sentinel://a:p4ss@host:26379/main/1"),
        (
            parsers.redis_servers,
            "redis+cluster://host:7000, [::1]:7001",
            RedisServers(False, None, None, (("host", 7000), ("::1", 7001)), None, 0),
        ),
        (
            parsers.redis_servers,
            "rediss+cluster://user:p%404ss@host:7000/",
            RedisServers(True, "user", "p@4ss", (("host", 7000),), None, 0),
        ),
        (
            parsers.redis_servers,
            "redis+sentinel://:p@4ss@host:26379/main/1",
            RedisServers(False, None, "p@4ss", (("host", 26379),), "main", 1),
        ),
        (
            parsers.redis_servers,
            "rediss+sentinel://host:26379/main",
            RedisServers(True, None, None, (("host", 26379),), "main", 0),
        ),
        (parsers.database_url, "sqlite:////var/reporadar.db", "sqlite:////var/reporadar.db"),
        (parsers.database_url, "postgresql:///reporadar", "postgresql+psycopg2:///reporadar"),
        (parsers.origins, "", ()),
        (parsers.origins, "https://a.example.org/, http://b:3000", ("https://a.example.org", "http://b:3000")),
        (parsers.origins, "http://[::1]:3000", ("http://[::1]:3000",)),
        (parsers.public_url, "HTTPS://Radar.example.org:443/", "https://radar.example.org"),
        (parsers.public_url, "http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        (parsers.smtp_url, "smtp://127.0.0.1:2525", "smtp://127.0.0.1:2525"),
        (
            parsers.smtp_url,
            "smtps://radar%40example.org:p%2Fw@mail.example.org/",
            "smtps://radar%40example.org:p%2Fw@mail.example.org/",
        ),
        (parsers.mail_from, "radar@example.org", "radar@example.org"),
        (parsers.mail_from, '"Radar, new" <radar@example.org>', '"Radar, new" <radar@example.org>'),
        (parsers.mail_from, "Größe <radar@example.org>", "Größe <radar@example.org>"),
        (parsers.folders, "/srv/git:/home", (Path("/srv/git"), Path("/home"))),
        (parsers.file_to_write, "/tmp/alive", Path("/tmp/alive")),
        (parsers.networks, "10.1.0.0/16, fd00::/8", (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))),
    ],
)
def test_accepted(parse: Parser, text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parsers.boolean, MARK),
        (parsers.boolean, "on"),
        (parsers.boolean, "2"),
        (parsers.choice("text", "json"), MARK),
        (parsers.choice("text", "json"), "JSON"),
        (parsers.integer(1, 9), MARK),
        (parsers.integer(1, 9), "0"),
        (parsers.integer(1, 9), "10"),
        (parsers.integer(1, 9), "-1"),
        (parsers.integer(1, 9), "+1"),
        (parsers.integer(1, 9), "1.0"),
        (parsers.integer(1, 9), "1_0"),
        (parsers.integer(1, 9), "\u0665"),  # a digit for int()
        (parsers.rate_limit, MARK),
        (parsers.rate_limit, "10"),
        (parsers.rate_limit, "0/h"),
        (parsers.rate_limit, "10/0min"),
        (parsers.rate_limit, "10/week"),
        (parsers.rate_limit, "10/h "),
        (parsers.instance_id, f"{MARK} 1"),
        (parsers.instance_id, "-1"),
        (parsers.instance_id, "a" * 65),
        (parsers.instance_id, "instance\n1"),
        (parsers.instance_id, "instance-1\n"),
        (parsers.host, f"{MARK}/24"),
        (parsers.host, f"{MARK}:3000"),
        (parsers.host, f"http://{MARK}"),
        (parsers.host, "[::1]:3000"),
        (parsers.redis_url, MARK),
        (parsers.redis_url, f"http://{MARK}"),
        (parsers.redis_url, "redis://"),
        (parsers.redis_url, f"redis://{MARK}:port"),
        (parsers.redis_url, f"redis://{MARK}:70000"),
        (parsers.redis_url, f"redis://[{MARK}"),
        (parsers.redis_url, "unix://"),
        (parsers.redis_url, "redis+cluster://"),
        (parsers.redis_url, f"redis+cluster://{MARK}"),
        (parsers.redis_url, f"redis+cluster://host:7000,{MARK}:70000"),
        (parsers.redis_url, f"redis+cluster://host:7000/{MARK}"),
        (parsers.redis_url, f"redis+cluster://host:7000?{MARK}=1"),
        (parsers.redis_url, f"redis+cluster://{MARK}@host:7000"),
        (parsers.redis_url, f"redis+{MARK}://host:7000"),
        (parsers.redis_url, f"redis+sentinel://{MARK}:26379"),
        (parsers.redis_url, f"redis+sentinel://host:26379/main/{MARK}"),
        (parsers.redis_url, f"redis+sentinel://host:26379/main/1/{MARK}"),
        (parsers.database_url, MARK),
        (parsers.database_url, f"mysql://{MARK}/name"),
        (parsers.database_url, f"postgresql://{MARK}"),
        (parsers.database_url, f"postgresql://{MARK}:port/name"),
        (parsers.database_url, f"sqlite:///{MARK}.db"),
        (parsers.database_url, "sqlite://"),
        (parsers.encryption_keys, MARK),
        (parsers.encryption_keys, "9f" * 31),
        (parsers.encryption_keys, "9f" * 33),
        (parsers.encryption_keys, "9g" * 32),
        (parsers.signing_secrets, MARK),
        (parsers.signing_secrets, "k3vJ8sQ2xZ7mN4bT9wL6yH1rD5gF0pC"),  # 31 characters
        (parsers.origins, MARK),
        (parsers.origins, f"ftp://{MARK}"),
        (parsers.origins, f"https://{MARK}/path"),
        (parsers.origins, f"https://user@{MARK}"),
        (parsers.origins, "*"),
        (parsers.origins, "null"),
        (parsers.public_url, MARK),
        (parsers.public_url, f"https://example.org/{MARK}"),
        (parsers.public_url, f"https://example.org, https://{MARK}.example.org"),
        (parsers.smtp_url, MARK),
        (parsers.smtp_url, f"http://{MARK}"),
        (parsers.smtp_url, f"smtp://{MARK}:port"),
        (parsers.smtp_url, "smtp://"),
        (parsers.smtp_url, f"smtp://{MARK}@mail.example.org"),
        (parsers.smtp_url, f"smtp://:{MARK}@mail.example.org"),
        (parsers.smtp_url, f"smtp://mail.example.org/{MARK}"),
        (parsers.smtp_url, f"smtp://mail.example.org?{MARK}"),
        (parsers.smtp_url, "smtp://radar:change-me@mail.example.org"),
        (parsers.mail_from, MARK),
        (parsers.mail_from, f"{MARK}@"),
        (parsers.mail_from, f"@{MARK}"),
        (parsers.mail_from, f"<{MARK}>"),
        (parsers.mail_from, f"{MARK}@example.org, b@example.org"),
        (parsers.mail_from, f"{MARK}@example .org"),
        (parsers.mail_from, f"rädar@{MARK}"),
        (parsers.mail_from, f"a@example.org\nBcc: {MARK}@example.org"),
        (parsers.folders, MARK),
        (parsers.folders, "/srv:~/git"),
        (parsers.networks, MARK),
        (parsers.networks, "10.1.0.1/16"),
        (parsers.file_to_write, MARK),
        (parsers.file_to_write, f"/nowhere/{MARK}"),
        (parsers.readable_file, f"/nowhere/{MARK}"),
    ],
)
def test_rejected_without_showing_the_value(parse: Parser, text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|names|contains|is) ") as raised:
        parse(text)
    assert MARK not in str(raised.value)


@pytest.mark.parametrize("options", ["ssl_cert_reqs=none", "decode_responses=yes", "protocol=3", "nonsense=1"])
def test_redis_url_must_not_contain_options(options: str) -> None:
    with pytest.raises(ValueError, match="contains options"):
        parsers.redis_url(f"rediss://host/0?{options}")


def test_redis_database_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="contains a database"):
        parsers.redis_url("redis://host/sessions")


@pytest.mark.parametrize("text", ["https://App.Example.org", "https://app.example.org:443", "HTTPS://app.example.org/"])
def test_origin_is_normalized(text: str) -> None:
    assert parsers.origins(text) == ("https://app.example.org",)


@pytest.mark.parametrize("text", ["https://*.example.org", "https://app example.org", "https://:secret@app.example.org"])
def test_invalid_origin_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parsers.origins(text)


def test_folder_is_not_a_readable_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        parsers.readable_file(str(tmp_path))
