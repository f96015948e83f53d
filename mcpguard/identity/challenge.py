"""What a refused client is told of signing in: ``WWW-Authenticate`` (RFC 6750, RFC 9728).

Exactly one challenge, ``Bearer``, with every value quoted: SDK clients look no further than its
first word, and some of them read quoted values only.
"""

from collections.abc import Callable, Sequence

from attrs import frozen

from mcpguard.front.exchange import Incoming

REALM = "mcp-guard"


@frozen
class Challenges:
    """The challenges of this gateway."""

    metadata_url: Callable[[Incoming], str | None]
    """Where the metadata of the resource is that a request is for; None: there is none."""
    scopes: Sequence[str]
    """What clients are told to ask for at first."""

    def challenge(self, incoming: Incoming, error: str | None) -> str:
        """The challenge of a 401; ``error`` says publicly what is wrong with a token presented.

        Without a token there is no error in it (RFC 6750, section 3.1).
        """
        parameters = [("realm", REALM)]
        if error is not None:
            parameters += [("error", "invalid_token"), ("error_description", error)]
        url = self.metadata_url(incoming)
        if url is not None:
            parameters.append(("resource_metadata", url))
            if self.scopes:
                parameters.append(("scope", " ".join(self.scopes)))
        return _bearer(parameters)

    def insufficient_scope(self, incoming: Incoming, scope: str, why: str) -> str:
        """The challenge of a 403 that a token with all of ``scope`` would not get."""
        parameters = [("error", "insufficient_scope"), ("scope", scope)]
        url = self.metadata_url(incoming)
        if url is not None:
            parameters.append(("resource_metadata", url))
        return _bearer([*parameters, ("error_description", why)])


def _bearer(parameters: Sequence[tuple[str, str]]) -> str:
    return "Bearer " + ", ".join(f'{name}="{_quotable(value)}"' for name, value in parameters)


def _quotable(text: str) -> str:
    """Only what may stand in an ``error_description`` (RFC 6750, section 3): no quotes at all."""
    return "".join(one if " " <= one <= "~" and one not in '"\\' else "?" for one in text)


PLAIN = Challenges(metadata_url=lambda incoming: None, scopes=())
"""Of a gateway whose clients bring what they were given: nobody signs them in."""
