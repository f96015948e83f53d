"""Tests of what a listener speaks TLS with: whole, or not at all, and then with every reason."""

import datetime
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from mcpguard.config.settings import TlsSettings
from mcpguard.errors import ConfigurationError
from mcpguard.tls.context import context_for
from mcpguard.tls.material import Material, MaterialBounds, load_material, outlook
from tests.pki import Authority, Issued, pem_of_key
from tests.tls.case import BOUNDS, TlsCase, files


class MaterialTests(TlsCase):
    """`load_material`."""

    def load(
        self, settings: TlsSettings, *, bounds: MaterialBounds = BOUNDS, strict: bool = True
    ) -> Material:
        """Read it now."""
        return load_material(settings, "server.tls", bounds, time.time(), strict=strict)

    def problems(self, settings: TlsSettings, **how: object) -> str:
        """Why it cannot be used."""
        error = self.assertRaises(ConfigurationError, self.load, settings, **how)
        return "\n".join(error.problems)

    def test_whole(self) -> None:
        """Everything that was named, with the time when each of it ends."""
        issuing = Authority("Issuing", self.servers)
        server = issuing.server()
        self.certificate, self.key = files(self.directory, "server", server, issuing)
        found = self.load(self.settings(crl=self.clients.crl(days=3.0)))
        self.assertEqual(found.chain, (server.certificate, issuing.certificate))
        self.assertEqual(found.authorities, (self.clients.certificate,))
        self.assertEqual(
            dict(found.ends),
            {
                "server": server.certificate.not_valid_after_utc.timestamp(),
                "client_ca": self.clients.certificate.not_valid_after_utc.timestamp(),
                "client_crl": found.crls[0].next_update_utc.timestamp(),  # type: ignore[union-attr]
            },
        )
        self.assertNotIn("PRIVATE", repr(found))
        self.assertNotIn("key=", repr(found))

    def test_least(self) -> None:
        """A certificate and its key are enough."""
        found = self.load(self.settings(client_ca_path=None))
        self.assertEqual((found.authorities, found.crls, set(found.ends)), ((), (), {"server"}))

    def test_each_file(self) -> None:
        """What is wrong is said with its key and its path, all of it at once."""
        missing = Path("/nowhere/x.pem")
        settings = TlsSettings(missing, missing, client_ca_path=missing, client_crl_path=missing)
        said = self.problems(settings)
        for key in ("cert_path", "key_path", "client_ca_path", "client_crl_path"):
            self.assertIn(f"server.tls.{key}: {missing} cannot be read: No such file", said)
        for path in (self.certificate, self.key, self.ca, self.crl):
            path.write_text("nothing")
        said = self.problems(self.settings(crl=b"nothing"))
        self.assertEqual(said.count(" has no PEM "), 4, said)

    def test_too_large(self) -> None:
        """Each kind of file has its bound."""
        settings = self.settings(crl=self.clients.crl())
        small = MaterialBounds(pem_bytes=10, crl_bytes=20)
        said = self.problems(settings, bounds=small)
        self.assertEqual(said.count("is larger than 10 bytes"), 3)
        self.assertEqual(said.count("is larger than 20 bytes"), 1)

    def test_key(self) -> None:
        """The key must be that of the first certificate, and of a kind that TLS has."""
        self.key.write_bytes(self.servers.key_pem)
        self.assertIn("server.tls.key_path: ", self.problems(self.settings()))
        self.key.write_bytes(pem_of_key(self.server.key, b"secret"))
        self.assertIn("is encrypted", self.problems(self.settings()))
        self.key.write_bytes(pem_of_key(ec.generate_private_key(ec.SECP256K1())))
        self.assertIn("secp256k1", self.problems(self.settings()))

    def test_judged(self) -> None:
        """What nobody would accept, or would accept nobody, is no material; unless told so."""
        old = self.servers.issue("localhost", starts=-2.0, days=-1.0)
        self.certificate, self.key = files(self.directory, "server", old)
        self.ca.write_bytes(self.clients.issue("no CA").pem)
        settings = self.settings()
        said = self.problems(settings)
        self.assertIn(f"server.tls.cert_path: {self.certificate} has expired", said)
        self.assertIn(f"server.tls.client_ca_path: {self.ca} has certificate 1", said)
        self.assertEqual(self.load(settings, strict=False).chain, (old.certificate,))
        self.key.write_bytes(self.servers.key_pem)
        self.assertIn("is not the key", self.problems(settings, strict=False))

    def test_lists(self) -> None:
        """Each CA needs its list, signed by it and in time."""
        for crl, said in (
            (Authority("Others").crl(), "has a list of"),
            (Authority("Clients").crl(), "has a wrong signature"),
            (self.clients.crl(days=-0.1), "had to be renewed"),
            (self.clients.crl(starts=0.5), "is not valid before"),
        ):
            self.assertIn(said, self.problems(self.settings(crl=crl)))

    def test_intermediate_alone(self) -> None:
        """A CA without the one that issued it would accept nobody."""
        self.ca.write_bytes(Authority("Issuing", self.clients).pem)
        self.assertIn("lacks the CA that issued", self.problems(self.settings()))

    def test_revoked(self) -> None:
        """Serial numbers by issuer, of all its lists together, however a list spells its name."""
        alice, bob = self.clients.issue("alice"), self.clients.issue("bob")
        both = self.clients.crl(alice) + self.clients.crl(bob)
        found = self.load(self.settings(crl=both))
        name = self.clients.certificate.subject.public_bytes()
        wanted = {alice.certificate.serial_number, bob.certificate.serial_number}
        self.assertEqual(dict(found.revoked), {name: wanted})

    def test_revoked_by_another_spelling(self) -> None:
        """A CA's name may be a PrintableString in its list and UTF-8 in its certificates."""
        alice = self.clients.issue("alice")
        printable = x509.NameAttribute(
            NameOID.COMMON_NAME, "Clients", _type=x509.name._ASN1Type.PrintableString
        )
        respelt = _crl_named(self.clients, x509.Name([printable]), alice)
        found = self.load(self.settings(crl=respelt))
        self.assertEqual(len(found.revoked), 2)
        issuer = alice.certificate.issuer.public_bytes()
        self.assertIn(alice.certificate.serial_number, found.revoked[issuer])

    def test_outlook(self) -> None:
        """What was good once is judged again later."""
        settings = self.settings(crl=self.clients.crl(days=3.0))
        found = self.load(settings)
        now = time.time()
        problems, warnings = outlook(found, settings, "server.tls", now)
        self.assertEqual((problems, warnings), ([], []))
        problems, warnings = outlook(found, settings, "server.tls", now + 2.5 * 86_400)
        self.assertEqual(len(problems), 0)
        self.assertIn("must be renewed", " ".join(warnings))
        problems, warnings = outlook(found, settings, "server.tls", now + 20 * 86_400)
        self.assertIn(f"server.tls.cert_path: {self.certificate} has expired", problems[0])


class ContextTests(TlsCase):
    """`context_for`."""

    def test_immutable(self) -> None:
        """A context that was used cannot be changed: whoever wants another one builds it."""
        settings = self.settings()
        material = load_material(settings, "server.tls", BOUNDS, time.time(), strict=True)
        context = context_for(material, settings, "server.tls")
        SSL.Connection(context, None)
        self.assertRaises(ValueError, context.set_verify_depth, 1)

    def test_refused_by_openssl(self) -> None:
        """What only OpenSSL finds wrong is a problem of the configuration, too."""
        settings = self.settings()
        material = load_material(settings, "server.tls", BOUNDS, time.time(), strict=True)
        other: Issued = self.clients
        bad = Material(material.chain, other.key, material.authorities, (), {}, dict(material.ends))
        error = self.assertRaises(ConfigurationError, context_for, bad, settings, "server.tls")
        self.assertIn(f"server.tls: {self.certificate} and its key", error.problems[0])

    def test_many_authorities(self) -> None:
        """Beyond a hundred CAs none is named to clients: they are still accepted."""
        many = [Authority(f"CA {number}") for number in range(101)]
        self.ca.write_bytes(b"".join(one.pem for one in (*many, self.clients)))
        listener = self.listener()
        self.connect(listener, self.clients.issue("alice"))
        self.connect(listener, many[7].issue("bob"))
        self.assertEqual(listener.words, ["success"] * 2)


def _crl_named(authority: Authority, name: x509.Name, *revoked: Issued) -> bytes:
    """Its list, with another spelling of its name."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(now - datetime.timedelta(hours=1))
        .next_update(now + datetime.timedelta(days=5))
    )
    for one in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(one.certificate.serial_number)
            .revocation_date(now)
            .build()
        )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)
