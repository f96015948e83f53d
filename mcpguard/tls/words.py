"""The few words for how handshakes end, from what OpenSSL says of them."""

from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL

from mcpguard.tls.context import NO_PROTOCOL

_CODES = SSL.X509VerificationCodes

SUCCESS = "success"
TOO_MANY_FAILURES = "too_many_failures"
LIMITS_UNAVAILABLE = "limits_unavailable"
NO_CERTIFICATE = "no_certificate"
TOO_LARGE = "too_large"

_BY_NUMBER = {
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT: "unknown_ca",
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "unknown_ca",
    _CODES.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "unknown_ca",
    # It has sent its own root along.
    _CODES.ERR_SELF_SIGNED_CERT_IN_CHAIN: "unknown_ca",
    _CODES.ERR_CERT_UNTRUSTED: "unknown_ca",
    _CODES.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "self_signed",
    _CODES.ERR_CERT_HAS_EXPIRED: "expired",
    _CODES.ERR_CERT_NOT_YET_VALID: "not_yet_valid",
    _CODES.ERR_CERT_REVOKED: "revoked",
    _CODES.ERR_INVALID_PURPOSE: "wrong_purpose",
    _CODES.ERR_CERT_REJECTED: "wrong_purpose",
    _CODES.ERR_INVALID_CA: "wrong_purpose",
    _CODES.ERR_KEYUSAGE_NO_CERTSIGN: "wrong_purpose",
    _CODES.ERR_KEYUSAGE_NO_DIGITAL_SIGNATURE: "wrong_purpose",
    _CODES.ERR_CRL_HAS_EXPIRED: "crl_expired",
    _CODES.ERR_UNABLE_TO_GET_CRL: "crl_missing",
    _CODES.ERR_UNABLE_TO_GET_CRL_ISSUER: "crl_missing",
    _CODES.ERR_CRL_NOT_YET_VALID: "crl_missing",
    _CODES.ERR_CERT_SIGNATURE_FAILURE: "bad_signature",
    _CODES.ERR_UNABLE_TO_DECRYPT_CERT_SIGNATURE: "bad_signature",
    _CODES.ERR_CRL_SIGNATURE_FAILURE: "bad_signature",
    _CODES.ERR_UNABLE_TO_DECRYPT_CRL_SIGNATURE: "bad_signature",
    _CODES.ERR_CERT_CHAIN_TOO_LONG: "chain_too_long",
    _CODES.ERR_PATH_LENGTH_EXCEEDED: "chain_too_long",
}
_BY_REASON = (
    ("peer did not return a certificate", NO_CERTIFICATE),
    (NO_PROTOCOL, "alpn"),
    ("http request", "not_tls"),
    ("https proxy request", "not_tls"),
    ("unsupported protocol", "version"),
    ("version too low", "version"),
    ("unknown protocol", "not_tls"),
    ("wrong version number", "not_tls"),
    ("packet length too long", "not_tls"),
    ("bad record type", "not_tls"),
    ("record layer failure", "not_tls"),
    ("unexpected message", "not_tls"),
    ("alert", "client_alert"),
)
"""In the order they are looked for: what OpenSSL's reason contains, and our word."""

WORDS = frozenset(
    {
        *_BY_NUMBER.values(),
        *(word for _, word in _BY_REASON),
        *(
            SUCCESS,
            TOO_MANY_FAILURES,
            TOO_LARGE,
            LIMITS_UNAVAILABLE,
            "timeout",
            "abandoned",
            "other",
        ),
    }
)
"""All of them: labels of the metric, reasons in the audit trail."""

OURS = frozenset({"crl_expired", "crl_missing"})
"""A certificate was refused, and its client can do nothing about it."""


def word_of_number(number: int) -> str:
    """The word for an error of OpenSSL about a certificate."""
    return _BY_NUMBER.get(number, "other")


def word_of_error(error: BaseException | None) -> str:
    """The word for why a handshake failed, if it was no certificate."""
    queue: Sequence[Any] = error.args[0] if isinstance(error, SSL.Error) and error.args else ()
    reasons = [str(one[-1]).lower() for one in queue if isinstance(one, tuple) and one]
    for part, word in _BY_REASON:
        if any(part in reason for reason in reasons):
            return word
    return "other"
