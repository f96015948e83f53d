"""What a failed handshake with a server means to the operator, from what OpenSSL says of it."""

_MEANINGS = (
    ("certificate required", "the server wants a client certificate"),
    ("alert unknown ca", "the server does not know the CA of our client certificate"),
    ("alert certificate expired", "the server finds our client certificate expired"),
    ("alert certificate revoked", "the server finds our client certificate revoked"),
    ("alert bad certificate", "the server refuses our client certificate"),
    ("alert unsupported certificate", "the server refuses our client certificate"),
    ("alert certificate unknown", "the server refuses our client certificate"),
    (
        "alert handshake failure",
        "the server refuses the handshake; it may want a client certificate",
    ),
    ("alert access denied", "the server refuses our client certificate"),
    ("protocol version", "the server speaks no TLS 1.2 or newer"),
    ("unsupported protocol", "the server speaks no TLS 1.2 or newer"),
    ("unrecognized name", "the server does not know the name it was asked for"),
    ("no application protocol", "the server does not speak HTTP/1.1"),
    ("wrong version number", "the server does not speak TLS on this port"),
    ("packet length too long", "the server does not speak TLS on this port"),
)
"""What OpenSSL's reason contains, and what it means; the first that fits."""


def tls_words(problem: BaseException) -> str:
    """What a broken handshake means for the operator, with OpenSSL's reasons.

    ``problem`` has OpenSSL's queue of errors as its first argument; anything else is told by its
    type.
    """
    queue = problem.args[0] if problem.args and isinstance(problem.args[0], list) else []
    reasons = "; ".join(str(one[-1]) for one in queue) or type(problem).__name__
    for part, meaning in _MEANINGS:
        if part in reasons:
            return f"{meaning} ({reasons})"
    return reasons
