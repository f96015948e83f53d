"""The grammar of single settings: each function answers the setting or raises ValueError.

The reasons never repeat the value, which may be a secret.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import SplitResult, urlsplit

import re2

from mcpguard.config.settings import Network
from mcpguard.policy.addresses import classify
from mcpguard.policy.origins import is_loopback, normal_origin, parse_authority
from mcpguard.policy.redis_url import parse_redis_url

SERVER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?\Z"
)
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z")
"""RFC 9110 section 5.6.2."""
PREFIX_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+\Z")
KEY_PREFIX = re.compile(r"[A-Za-z0-9._:/{}-]{1,128}\Z")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}\Z")
SCOPE = re.compile(r"[!#-\[\]-~]{1,256}\Z")
RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,30})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)

OWNED_HEADERS = frozenset(
    {
        # hop by hop, RFC 9110 section 7.6.1
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "proxy-authenticate", "proxy-authorization", "http2-settings"),
        # said by the gateway about each request
        *("host", "content-length", "content-type", "content-encoding", "expect"),
        *("accept", "accept-encoding", "last-event-id", "cache-control"),
    }
)
"""Names no configured upstream header may have; those beginning with ``mcp-`` neither."""


def words(text: str) -> str:
    """Any text without control characters."""
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        raise ValueError("contains a control character")
    return text


def label(limit: int) -> Callable[[str], str]:
    """A name for people and logs: not empty, no control characters, no outer blanks."""

    def parse(text: str) -> str:
        if not text:
            raise ValueError("empty")
        if len(text) > limit:
            raise ValueError(f"longer than {limit} characters")
        if text != text.strip():
            raise ValueError("begins or ends with a blank")
        return words(text)

    return parse


def matching(pattern: re.Pattern[str], why: str) -> Callable[[str], str]:
    """Text of one shape."""

    def parse(text: str) -> str:
        if not pattern.match(text):
            raise ValueError(why)
        return text

    return parse


def no_nul(text: str) -> str:
    """What the kernel takes as an argument or environment value."""
    if "\0" in text:
        raise ValueError("contains a NUL character")
    return text


def bind_address(text: str) -> str:
    """An address or name to listen on."""
    if text == "*":
        raise ValueError('for every interface write "0.0.0.0" or "::"')
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not HOST_NAME.match(text) or _looks_numeric(text):
        raise ValueError("neither an IP address nor a host name")
    return text


def _looks_numeric(host: str) -> bool:
    """Whether the last label is a number, which makes a name an IPv4 address or nothing."""
    last = host.rstrip(".").rpartition(".")[2].lower()
    return last.isdigit() or last.startswith("0x")


class Concealed(ValueError):
    """A reason given about a value that may hold a secret although it is an ordinary setting."""


def absolute_url(text: str) -> SplitResult:
    """An http or https URL with a host, without user information or fragment."""
    try:
        return _absolute_url(text)
    except ValueError as error:
        # Passwords stand before an @, tokens in a query.
        raise (Concealed if "@" in text or "?" in text else ValueError)(str(error)) from None


def _absolute_url(text: str) -> SplitResult:
    if any(ord(c) <= 32 or ord(c) >= 127 for c in text) or "\\" in text:
        raise ValueError("contains a character that no URL has")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("has no valid host and port") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("does not begin with http:// or https://")
    if "@" in url.netloc:
        raise ValueError("carries user information")
    if not url.hostname or not _is_host(url.hostname):
        raise ValueError("has no valid host name")
    if port == 0 or url.netloc.endswith(":"):
        raise ValueError("has no valid port")
    if url.fragment or text.endswith("#"):
        raise ValueError("has a fragment")
    return url


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # 2130706433 and 0x7f.1 are addresses to some resolvers and names to others.
        return bool(HOST_NAME.match(host)) and not _looks_numeric(host)
    return True


def upstream_url(text: str) -> str:
    """Where an MCP server answers. A name is judged again each time it is resolved."""
    host = absolute_url(text).hostname or ""
    try:
        kind = classify(host)
    except ValueError:
        return text
    if kind in ("link_local", "metadata", "unusable"):
        raise ValueError("an address that is never dialled (metadata, link-local or none at all)")
    return text


def public_url(text: str) -> str:
    """The URL clients know the gateway by, without a trailing slash."""
    if absolute_url(text).query or text.endswith("?"):
        raise ValueError("has a query")
    return text.rstrip("/")


def origin(text: str) -> str:
    """``scheme://host[:port]`` as browsers send it (RFC 6454), in its normal form."""
    rest = text.partition("://")[2]
    if any(c in rest for c in "/?#@\\") or any(ord(c) <= 32 or ord(c) >= 127 for c in text):
        raise ValueError("has more than scheme://host or scheme://host:port")
    normal = normal_origin(text)
    if normal is None:
        raise ValueError("not scheme://host or scheme://host:port")
    return normal


def cors_origin(text: str) -> str:
    """An origin, or ``*``."""
    return text if text == "*" else origin(text)


def host_and_port(text: str) -> str:
    """What a ``Host`` header may say: ``name``, ``name:port``, ``[IPv6]``, ``[IPv6]:port``."""
    bare = text if text.startswith("[") or text.count(":") < 2 else f"[{text}]"
    if parse_authority(bare) is None:
        raise ValueError("not a host name, address, or either with a port")
    return bare.lower()


def network(text: str) -> Network:
    """An IP address or a CIDR range."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            wider = ipaddress.ip_network(text, strict=False)
            raise ValueError(f"has bits set behind the prefix; did you mean {wider}?") from None
        raise ValueError("not an IP address or CIDR range") from None


def moment(text: str) -> datetime:
    """A point in time, RFC 3339."""
    found = RFC_3339.match(text)
    if found is None:
        raise ValueError("not RFC 3339 with an offset")
    try:
        zone = "+00:00" if found[4] in "Zz" else found[4]
        micro = (found[3] or ".")[:7].ljust(7, "0")
        return datetime.fromisoformat(f"{found[1]}T{found[2]}{micro}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("no such point in time") from None


def key_hash(text: str) -> bytes:
    """SHA-256 in standard base64."""
    if text.startswith("mcp_"):
        raise ValueError("this is a key itself; put the output of `mcp-guard hash-key` here")
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("hexadecimal; base64 is expected")
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not standard base64") from None
    if len(digest) != 32:
        raise ValueError(f"{len(digest)} bytes instead of 32")
    if base64.b64encode(digest).decode() != text:
        raise ValueError("not canonical base64")
    return digest


MIN_DISTINCT = 12
"""Different bytes in a key: fewer among 32 are typed, not drawn (once in 10**24 keys)."""


def session_key(text: str) -> str:
    """32 bytes as hexadecimal or base64 (either alphabet); gives them as hexadecimal."""
    text = text.strip()
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raw = bytes.fromhex(text)
    else:
        bare = text.rstrip("=").translate(str.maketrans("-_", "+/"))
        try:
            raw = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("neither base64 nor hexadecimal") from None
    if len(raw) != 32:
        raise ValueError(f"{len(raw)} bytes instead of 32")
    if len(set(raw)) < MIN_DISTINCT:
        raise ValueError("these bytes are not random")
    return raw.hex()


def redis_url(text: str) -> str:
    """Where a Redis is."""
    parse_redis_url(text)
    return text


def glob(text: str) -> str:
    """A name or a pattern with ``*`` and ``?``, optionally ``server:`` before it."""
    if not text:
        raise ValueError("empty")
    if len(text) > 512:
        raise ValueError("longer than 512 characters")
    return words(text)


def path_prefix(text: str) -> str:
    """``/fs`` or ``/team/fs``."""
    if not text.startswith("/"):
        raise ValueError("does not begin with /")
    if text.endswith("/"):
        raise ValueError("ends with /")
    segments = text[1:].split("/")
    if any(not PREFIX_SEGMENT.match(s) or s in (".", "..") for s in segments):
        raise ValueError("has a segment that is empty, . or .., or not letters, digits and ._~-")
    return text


def header_name(text: str) -> str:
    """The name of a header for an upstream, in lower case."""
    if not TOKEN.match(text):
        raise ValueError("not a header name")
    name = text.lower()
    if name in OWNED_HEADERS or name.startswith("mcp-"):
        raise ValueError("this header is the gateway's own to set")
    return name


def header_value(text: str) -> str:
    """A header's value: visible ASCII, blanks inside (RFC 9110 section 5.5)."""
    if not text or text != text.strip():
        raise ValueError("empty, or begins or ends with a blank")
    if any(not (32 <= ord(c) < 127 or c == "\t") for c in text):
        raise ValueError("contains a line end, a control character or a character beyond ASCII")
    return text


def environment_name(text: str) -> str:
    """The name of an environment variable."""
    if not ENVIRONMENT_NAME.match(text):
        raise ValueError("not a name for an environment variable")
    return text


def pattern(text: str) -> str:
    """An RE2 expression that matches something."""
    options = re2.Options()
    options.log_errors = False  # else RE2 writes to stderr by itself
    try:
        compiled = re2.compile(text, options)
    except re2.error as error:
        why = error.args[0] if error.args else ""
        shown = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
        raise ValueError(f"not an RE2 expression: {shown[:200]}") from None
    if compiled.search("") is not None:
        raise ValueError("matches the empty text, so it would match everywhere")
    return text


def server_name(text: str) -> str:
    """A name as certificates have it, for SNI (RFC 6066): no address, no final dot."""
    if not HOST_NAME.match(text) or _looks_numeric(text) or text.endswith("."):
        raise ValueError("not a host name")
    return text.lower()


def jwks_url(text: str) -> str:
    """Where keys are fetched from: who can change them on the way can sign in as anybody."""
    url = absolute_url(text)
    if url.scheme != "https" and not is_loopback(url.hostname or ""):
        raise ValueError("is not https://, and its host is not on loopback")
    return upstream_url(text)


def issuer_url(text: str) -> str:
    """The identifier of an authorization server (RFC 8414 section 2), letter by letter."""
    url = absolute_url(text)
    if url.query or text.endswith("?"):
        raise ValueError("has a query")
    if url.scheme != "https" and not is_loopback(url.hostname or ""):
        raise ValueError("is not https://, and its host is not on loopback")
    return text


def scope(text: str) -> str:
    """One scope (RFC 6749 section 3.3): visible ASCII without blank, quote and backslash."""
    if not SCOPE.match(text):
        raise ValueError('no scope: 1 to 256 visible ASCII characters without " and \\')
    return text


def jwt_secret(text: str) -> str:
    """A key for HMAC (RFC 7518 section 3.2): no shorter than SHA-256."""
    if len(text.encode()) < 32:
        raise ValueError("shorter than 32 bytes")
    if text.lstrip().startswith("-----BEGIN"):
        # Whoever has a public key could make tokens with it.
        raise ValueError('a key or certificate in PEM; public keys are for mode = "jwks"')
    return text
