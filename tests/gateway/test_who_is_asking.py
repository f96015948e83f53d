"""Whoever the whole chain lets in was issued what they brought, for this place and this moment.

Generated conversations: keys of the issuer that come and go, a clock that goes on and back, and
requests by certificates, keys and tokens, good, mixed up and broken. What is expected of each is
worked out here from what was issued, without a look at how the gateway works it out.
"""

import functools
from ipaddress import ip_address, ip_network
from typing import Any

from attrs import define, evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.settings import AuthSettings, JwtSettings, MtlsIdentity, MtlsSettings
from mcpguard.config.settings import IdentityKeys as Keys
from mcpguard.errors import Reason, Refused
from mcpguard.front.exchange import Incoming
from mcpguard.gateway.identities import identities_for
from mcpguard.policy.certificates import Withdrawn
from mcpguard.policy.principal import Principal
from tests.gateway.test_identities import LISTENERS, directory
from tests.identity.certificates import CLIENT, PROXY, der_header, facts, request
from tests.identity.test_jwt import MemoryKeys
from tests.pipeline.rig import api_key
from tests.pki import Authority, Issued
from tests.tokens import ISSUER, SigningKey, b64, ec_key, good

CA = Authority("CA")
SHOWN = {
    "alice": CA.issue("alice"),
    "bob": CA.issue("bob", days=20.0),
    "revoked": CA.issue("revoked", days=20.0),
    "late": CA.issue("late", days=30.0, starts=29.0),
}
FACTS = {name: facts(one) for name, one in SHOWN.items()}
START = int(FACTS["alice"].not_after) - 50
"""Alice's certificate ends within the tests."""
ELSEWHERE = "198.51.100.9"

SIGNERS = (
    ec_key(kid="a"),
    ec_key(kid="b", number=1),
    ec_key(kid="a", number=2),
    SigningKey(ec_key(number=3).private, None),
)
MAPPING = {"read": ("read_*",), "write": ("write_*", "web:sum"), "none": ()}
AUDIENCES = {"api": "", "https://h/mcp/fs": "/mcp/fs", "https://h/mcp/web/": "/mcp/web"}
"""Those of the gateway, and where each may be used; at none in particular: everywhere."""
PATHS = ("/mcp", "/mcp/fs", "/mcp/files", "/mcp/fs/sse", "/mcp/web", "/mcp/web/x", "/mcp/webx")

NO_ALGORITHM = b64(b'{"alg":"none"}')

API_KEYS = (
    api_key("alice"),
    evolve(api_key("here"), allowed_ips=(ip_network("192.0.2.0/24"),)),
)
AUTH = AuthSettings(
    api_keys=API_KEYS,
    jwt=JwtSettings(
        "jwks",
        ISSUER,
        tuple(AUDIENCES),
        jwks_url="https://k",
        algorithms=("ES256",),
        scope_tool_mapping=MAPPING,
    ),
    mtls=MtlsSettings(
        enabled=True,
        trusted_proxy_ips=(ip_network(PROXY),),
        identity=Keys(allowed_tools=("read_*",)),
        identities=(MtlsIdentity("bob", Keys(allowed_tools=("bobs",))),),
    ),
)


@frozen
class Issue:
    """A token that the issuer, or somebody else, has signed."""

    signer: int
    sub: str
    iss: str
    audiences: tuple[str, ...]
    ends: int
    begins: int | None
    scope: str | None
    bound: str | None

    @functools.cached_property
    def text(self) -> str:
        """The token."""
        return written(self)

    def counts(
        self, signers: frozenset[int], path: str, now: float, certificate: str | None
    ) -> bool:
        """Whether it lets anybody in."""
        places = [AUDIENCES[one] for one in self.audiences if one in AUDIENCES]
        here = any(path == place or path.startswith(f"{place}/") for place in places)
        return (
            self.signer in signers
            and self.iss == ISSUER
            and bool(places)
            and ("" in places or here)
            and now < START + self.ends
            and (self.begins is None or START + self.begins <= now)
            and (self.bound is None or self.bound == certificate)
        )

    @property
    def tools(self) -> tuple[str, ...]:
        """What its scopes grant."""
        held = (self.scope or "").split()
        return tuple(tool for scope, tools in MAPPING.items() if scope in held for tool in tools)


@functools.cache
def written(one: Issue) -> str:
    """Sign it, once."""
    return SIGNERS[one.signer].token(
        "ES256",
        good(
            iss=one.iss,
            sub=one.sub,
            aud=list(one.audiences),
            iat=None,
            exp=START + one.ends,
            nbf=None if one.begins is None else START + one.begins,
            scope=one.scope,
            cnf=None if one.bound is None else {"x5t#S256": FACTS[one.bound].thumbprint},
        ),
    )


GOOD = Issue(0, "alice", ISSUER, ("api",), 10, None, "write read", None)
ALWAYS = (
    GOOD,
    evolve(GOOD, sub="bob", ends=60, bound="bob"),
    evolve(GOOD, ends=60, begins=15),
    evolve(GOOD, ends=60, audiences=("https://h/mcp/fs", "else")),
    evolve(GOOD, audiences=("else",)),
    evolve(GOOD, iss="https://evil.example/"),
)
"""Tokens of every conversation: a good one, and some that are not quite."""
ISSUES = st.builds(
    Issue,
    signer=st.sampled_from((0, 0, 0, 1, 2, 3)),
    sub=st.sampled_from(("alice", "bob")),
    iss=st.sampled_from((*[ISSUER] * 5, "https://evil.example/")),
    audiences=st.sampled_from(
        (
            *(("api",), ("api",), ("https://h/mcp/fs",), ("https://h/mcp/web/",)),
            *(("https://h/mcp/fs", "else"), ("https://h/mcp/web/", "api"), ("else",), ()),
        )
    ),
    ends=st.sampled_from((5, 25, 60)),
    begins=st.sampled_from((None, None, None, 0, 15)),
    scope=st.sampled_from((None, "read", "write read", "other none")),
    bound=st.sampled_from((None, None, None, None, *SHOWN)),
)


@frozen
class Step:
    """Something that happens: the time, the issuer's keys, and a request."""

    seconds: int
    signers: frozenset[int] | None
    """Those whose keys are published from now on; None: as before."""
    lost: bool
    """The keys become too old."""
    may_ask: bool
    later: frozenset[int] | None
    """Published while the request waits; None: nothing comes."""
    token: int
    """Of the conversation's tokens."""
    other: int
    how: str
    place: int
    peer: str
    shown: str | None
    word: str | None
    passed: str | None
    path: str
    query: str


KEY_SETS = tuple(map(frozenset, ((), (0,), (0, 1), (1, 2), (2,), (0, 2, 3))))
"""Signers whose keys are published together."""
STEPS = st.builds(
    Step,
    seconds=st.sampled_from((0, 0, 0, 9, 15, 30, -20)),
    signers=st.sampled_from((*[None] * 20, *KEY_SETS)),
    lost=st.sampled_from((*[False] * 15, True)),
    may_ask=st.booleans(),
    later=st.sampled_from((None, *KEY_SETS)),
    token=st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7)),
    other=st.integers(0, 7),
    how=st.sampled_from(
        (
            *("token",) * 15,
            *("alice", "here", "nobody", "none", "twice"),
            *("unsigned", "mixed", "claims", "changed", "cut", "scheme"),
        )
    ),
    place=st.integers(0, 10_000),
    peer=st.sampled_from((CLIENT, PROXY, PROXY, ELSEWHERE)),
    shown=st.sampled_from((*[None] * 5, "alice", "alice", *SHOWN)),
    word=st.sampled_from((None, None, None, "SUCCESS", "NONE", "FAILED:x", "success")),
    passed=st.sampled_from((*[None] * 3, *SHOWN, "garbage")),
    path=st.sampled_from(PATHS),
    query=st.sampled_from((*[""] * 9, "x=1", "Access_Token=x", "access%5Ftoken=x")),
)


def credentials(step: Step, tokens: list[str]) -> tuple[str, ...]:
    """The values of ``Authorization``."""
    token, other = tokens[step.token % len(tokens)], tokens[step.other % len(tokens)]
    header, payload, signature = token.split(".")
    place = step.place % len(token)
    letter = "A" if token[place] != "A" else "B"
    values: dict[str, tuple[str, ...]] = {
        "token": (f"Bearer {token}",),
        "scheme": (f"bEARER  {token} ",),
        "alice": ("Bearer mcp_alice",),
        "here": ("Bearer mcp_here",),
        "nobody": ("Bearer mcp_nobody",),
        "none": (),
        "twice": (f"Bearer {token}", "Bearer mcp_alice"),
        "unsigned": (f"Bearer {NO_ALGORITHM}.{payload}.",),
        "mixed": (f"Bearer {header}.{payload}.{other.split('.')[2]}",),
        "claims": (f"Bearer {header}.{other.split('.')[1]}.{signature}",),
        "changed": (f"Bearer {token[:place]}{letter}{token[place + 1 :]}",),
        "cut": (f"Bearer {token[:place]}",),
    }
    return values[step.how]


@frozen
class Somebody:
    """Who is let in, and with what."""

    key: str
    tools: tuple[str, ...] | None
    scoped: tuple[str, ...] | None


@define(eq=False)
class Conversation:
    """A gateway, its issuer, and what was said so far."""

    issued: tuple[Issue, ...]
    certificates: bool
    """Whether they sign anybody in; tokens may be bound to them in any case."""
    now: float = START
    signers: frozenset[int] | None = None
    keys: MemoryKeys = field(factory=MemoryKeys)
    notes: dict[Any, dict[str, Any]] = field(factory=dict)
    chain: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        revoked = FACTS["revoked"].serial
        assert AUTH.mtls is not None
        found = identities_for(
            evolve(AUTH, mtls=evolve(AUTH.mtls, enabled=self.certificates)),
            directory(),
            lambda: LISTENERS,
            lambda: self.now,
            keys=self.keys,
            withdrawn=lambda one: Withdrawn.REVOKED if one.serial == revoked else None,
        )
        self.chain = found.chain

    def publish(self, signers: frozenset[int] | None) -> None:
        """Have the keys of these from now on."""
        self.signers = signers
        if signers is None:
            self.keys.outlive()
        else:
            self.keys.publish(*(SIGNERS[one] for one in sorted(signers)))

    def incoming(self, step: Step, bearer: tuple[str, ...]) -> Incoming:
        """The request, with the notes of its head, whoever sends it."""
        headers: dict[str, tuple[str, ...]] = {}
        if bearer:
            headers["authorization"] = bearer
        if step.word is not None:
            headers["x-ssl-client-verify"] = (step.word,)
        if step.passed is not None:
            shown: Issued | None = SHOWN.get(step.passed)
            headers["x-ssl-client-cert"] = (der_header(shown) if shown else "garbage",)
        certificate = None if step.shown is None else FACTS[step.shown]
        incoming = request(headers, peer=step.peer, shown=certificate)
        head = step.path, tuple(headers.items())
        notes = None if step.query else self.notes.setdefault(head, {})
        return replace(incoming, path=step.path, query=step.query, notes=notes)

    # -- what is expected --------------------------------------------------------------------

    def certificate(self, step: Step) -> str | None:
        """Whose certificate counts; None where none does."""
        if step.peer == PROXY:
            name = step.passed if step.word == "SUCCESS" else None
        else:
            name = step.shown
        if name is None or name not in FACTS or name == "revoked":
            return None
        one = FACTS[name]
        return name if one.not_before <= self.now <= one.not_after else None

    def expected(
        self, step: Step, bearer: tuple[str, ...], signers: frozenset[int] | None
    ) -> Somebody | None:
        """Who this is, if anybody."""
        if step.query not in ("", "x=1"):
            return None
        certificate = self.certificate(step)
        if certificate is not None and self.certificates:
            tools = ("bobs",) if certificate == "bob" else ("read_*",)
            return Somebody(f"mtls:{certificate}", tools, None)
        if len(bearer) != 1:
            return None
        text = bearer[0].split(" ", 1)[1].strip()
        if text == "mcp_alice":
            return Somebody("api_key:alice", None, None)
        if text == "mcp_here":
            near = ip_address(step.peer) in ip_network("192.0.2.0/24")
            return Somebody("api_key:here", None, None) if near else None
        one = next((one for one in self.issued if one.text == text), None)
        if one is None or not one.counts(signers or frozenset(), step.path, self.now, certificate):
            return None
        return Somebody(f"jwt:{one.sub}", None, one.tools)

    # -- what happens ------------------------------------------------------------------------

    def take(self, case: SynchronousTestCase, step: Step) -> bool:
        """Let it happen, and compare; tells whether somebody was let in."""
        self.now += step.seconds
        if step.signers is not None:
            self.publish(step.signers)
        if step.lost:
            self.publish(None)
        self.keys.may_ask = step.may_ask
        bearer = credentials(step, [one.text for one in self.issued])
        try:
            found = self.chain.authenticate(self.incoming(step, bearer), self.now)
        except Refused as refused:
            found = refused
        if isinstance(found, Deferred):
            waiting = [one for one in (*self.keys.asked, *self.keys.loads) if not one.called]
            if step.later is not None and waiting:
                self.publish(step.later)
            for one in waiting:
                one.callback(step.later is not None)
            results: list[Any] = []
            found.addBoth(results.append)
            (result,) = results
            found = getattr(result, "value", result)
        expected = self.expected(step, bearer, self.signers)
        if expected is None:
            case.assertIsInstance(found, Refused, f"{step} let in {found}")
            self.check_refusal(case, found)
            return False
        case.assertIsInstance(found, Principal, f"{step} kept out {expected}: {found}")
        rights = found.rights
        case.assertEqual(Somebody(found.key, rights.tools, rights.scoped_tools), expected)
        case.assertTrue(found.expires_at is None or found.expires_at >= self.now)
        return True

    def check_refusal(self, case: SynchronousTestCase, refused: Refused) -> None:
        """It is told properly, and tells nothing of what was brought."""
        refusal = refused.refusal
        if refusal.reason is Reason.IDENTITY_UNAVAILABLE:
            return
        case.assertEqual(refusal.shape.status, 401)
        ((name, challenge),) = refusal.headers
        case.assertEqual(name, "WWW-Authenticate")
        case.assertTrue(challenge.startswith("Bearer "))
        case.assertTrue(challenge.isascii() and challenge.isprintable())
        for one in self.issued:
            case.assertNotIn(one.text.split(".")[2], f"{refusal!r} {challenge}")


class WholeChainTests(SynchronousTestCase):
    """The ways of signing in together."""

    let_in = 0

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(ISSUES, max_size=2),
        st.booleans(),
        st.lists(STEPS, min_size=4, max_size=12),
    )
    def converse(self, issued: list[Issue], certificates: bool, steps: list[Step]) -> None:
        """One conversation."""
        conversation = Conversation((*ALWAYS, *issued), certificates)
        conversation.publish(frozenset((0, 1)))
        for step in steps:
            self.let_in += conversation.take(self, step)

    def test_only_what_was_issued(self) -> None:
        """Nobody else is let in, nobody as another or with more; and whoever should be, is."""
        self.converse()
        self.assertGreater(self.let_in, 100)
