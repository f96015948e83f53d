"""Certificates made in code for one test run; nothing is kept."""

import datetime
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet.ssl import CertificateOptions

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def pem_of_key(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """A private key as PEM."""
    hidden: KeySerializationEncryption = NoEncryption()
    if password is not None:
        hidden = BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


def _name(common: str | None) -> x509.Name:
    return x509.Name([] if common is None else [x509.NameAttribute(NameOID.COMMON_NAME, common)])


@frozen
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate alone."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Its key."""
        return pem_of_key(self.key)

    def write(self, directory: Path, name: str, *chain: x509.Certificate) -> tuple[Path, Path]:
        """Write ``name.crt``, with a chain behind it, and ``name.key``; their paths."""
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        further = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
        certificate.write_bytes(self.pem + further)
        key.touch(0o600)
        key.write_bytes(self.key_pem)
        return certificate, key


class Authority(Issued):
    """A certificate authority: a root, or below another one.

    With the ``key`` of one that there is: its renewal, or what another root has signed of it.
    ``usages`` are those it may issue certificates for; None: any.
    """

    def __init__(
        self,
        name: str,
        parent: "Authority | None" = None,
        days: float = 30.0,
        key: ec.EllipticCurvePrivateKey | None = None,
        usages: Sequence[x509.ObjectIdentifier] | None = None,
    ) -> None:
        key = key or ec.generate_private_key(ec.SECP256R1())
        meant = [] if usages is None else [(x509.ExtendedKeyUsage(usages), False)]
        made = _build(
            name,
            key,
            issuer=_name(name) if parent is None else parent.certificate.subject,
            starts=-1.0,
            days=days,
            signer=key if parent is None else parent.key,
            extensions=[
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (_usage(ca=True), True),
                *meant,
            ],
        )
        super().__init__(made, key)

    def issue(
        self,
        name: str | None,
        *,
        days: float = 10.0,
        starts: float = -0.5,
        dns: Sequence[str] = (),
        emails: Sequence[str] = (),
        uris: Sequence[str] = (),
        addresses: Sequence[str] = (),
        usages: Sequence[x509.ObjectIdentifier] | None = (CLIENT,),
        key: Any = None,
    ) -> Issued:
        """A leaf, good from ``starts`` to ``days`` days from now; ``usages`` None: any.

        ``key`` is its private one, a new one on P-256 unless it is given.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            *(x509.DNSName(one) for one in dns),
            *(x509.RFC822Name(one) for one in emails),
            *(x509.UniformResourceIdentifier(one) for one in uris),
            *(x509.IPAddress(ip_address(one)) for one in addresses),
        ]
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(ca=False), True),
        ]
        if names:
            extensions.append((x509.SubjectAlternativeName(names), False))
        if usages is not None:
            extensions.append((x509.ExtendedKeyUsage(usages), False))
        made = _build(
            name,
            key,
            issuer=self.certificate.subject,
            starts=starts,
            days=days,
            signer=self.key,
            extensions=extensions,
        )
        return Issued(made, key)

    def server(self, *dns: str, days: float = 10.0) -> Issued:
        """A listener's certificate for some names, and for loopback."""
        return self.issue(
            dns[0] if dns else "localhost",
            days=days,
            dns=dns or ("localhost",),
            addresses=("127.0.0.1", "::1"),
            usages=(SERVER,),
        )

    def crl(self, *revoked: Issued, days: float = 5.0, starts: float = -0.5) -> bytes:
        """The revocation list as PEM, good until ``days`` days from now."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now + datetime.timedelta(days=starts))
            .next_update(now + datetime.timedelta(days=days))
        )
        for one in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(one.certificate.serial_number)
                .revocation_date(now - datetime.timedelta(minutes=1))
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _build(
    name: str | None,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: x509.Name,
    starts: float,
    days: float,
    signer: ec.EllipticCurvePrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=starts))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    return builder.sign(signer, hashes.SHA256())


def self_signed() -> Any:
    """TLS for localhost, good for some days."""
    made = Authority("CA").server()
    options = cast("Any", CertificateOptions)
    return options(
        privateKey=made.key, certificate=made.certificate, acceptableProtocols=[b"http/1.1"]
    )
