"""Where a Redis is, as its URL says it: ``redis[s]://[user][:password]@host[:port][/database]``."""

from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from mcpguard.policy.origins import parse_authority

DEFAULT_PORT = 6379
MAX_DATABASE = 65_535


@frozen
class RedisAddress:
    """A parsed URL."""

    host: str
    """A name, or an address without brackets."""
    port: int
    tls: bool
    database: int
    username: str | None
    password: str | None = field(repr=False)


def parse_redis_url(text: str) -> RedisAddress:
    """Take a URL apart; user and password are percent-decoded.

    Raises `ValueError` with a reason that repeats nothing of it.
    """
    if any(ord(c) <= 32 or ord(c) >= 127 for c in text):
        raise ValueError("contains a character that no URL has")
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in ("redis", "rediss"):
        raise ValueError("does not begin with redis:// or rediss://")
    try:
        url = urlsplit(text)
    except ValueError:
        raise ValueError("has no valid host and port") from None
    if url.query or url.fragment or text.endswith(("?", "#")):
        raise ValueError("has a query or a fragment; write ? and # in a password as %3F and %23")
    user_info, at, authority = url.netloc.rpartition("@")
    parsed = parse_authority(authority)
    if parsed is None or parsed.port == 0:
        raise ValueError("has no valid host and port")
    username, colon, password = user_info.partition(":")
    if at and (not colon or not password):
        raise ValueError("has an @ but no :password before it")
    return RedisAddress(
        host=parsed.host,
        port=DEFAULT_PORT if parsed.port is None else parsed.port,
        tls=scheme == "rediss",
        database=_database(url.path),
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
    )


def _database(path: str) -> int:
    number = path.removeprefix("/")
    if not number:
        return 0
    if not (number.isascii() and number.isdigit()) or len(number) > 5:
        raise ValueError("has a path that is not the number of a database, such as /0")
    if int(number) > MAX_DATABASE:
        raise ValueError(f"has a database above {MAX_DATABASE}")
    return int(number)
