"""The commands of ``docs/tls.md``, run as they stand there, and the gateway on what they make."""

import re
from pathlib import Path

from tests.live.clients_case import DEMO, PATH
from tests.live.gateway_process import GatewayCase, stdio
from tests.live.processes import free_port
from tests.live.software import REPOSITORY, program

PAGE = REPOSITORY / "docs" / "tls.md"
URL = "https://127.0.0.1:3000"


def blocks(language: str) -> list[str]:
    """The blocks of the page in one language."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


def commands(block: str) -> list[str]:
    """The command lines of a block, each in one line."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


class DocumentedTlsTests(GatewayCase):
    """A new user's way from nothing to client certificates, and one of them revoked."""

    timeout = 90

    async def shell(self, directory: Path, lines: list[str]) -> int:
        """Run lines in one shell."""
        script = "\n".join(["set -e", *lines])
        status, _, _ = await self.run_program(
            ["bash", "-c", script], seconds=30, cwd=str(directory), env={"PATH": "/usr/bin:/bin"}
        )
        return status

    async def test_working_set(self) -> None:
        """The certificates work, who has none is refused, and so is who was revoked."""
        program("openssl")
        program("curl")
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (configuration,) = blocks("ini")
        (directory / "ca.cnf").write_text(configuration)
        making, revoking = blocks("console")
        *made, asked = commands(making)
        self.assertEqual(await self.shell(directory, made), 0)
        self.assertIn(URL, asked)
        (tls,) = [block for block in blocks("toml") if "client_crl_path" in block]
        settings = dict(re.findall(r'(?m)^(\w+_path) = "/etc/mcp-guard/(.*)"$', tls))
        self.assertEqual(len(settings), 4)
        port = free_port()
        gateway = await self.start_gateway(
            [stdio("demo", DEMO, env=dict(PATH))],
            identities={"alice": {}},
            server={
                "listeners": [
                    {
                        "port": port,
                        "tls": {key: str(directory / name) for key, name in settings.items()},
                    }
                ]
            },
            auth={"mtls": {"enabled": True}},
        )
        asked = asked.replace(URL, f"https://127.0.0.1:{port}")
        self.assertEqual(await self.shell(directory, [f"{asked} -sf -m 10"]), 0)
        without = re.sub(r"--cert \S+ --key \S+ ", "", asked)
        self.assertNotEqual(await self.shell(directory, [f"{without} -sf -m 10"]), 0)
        self.assertEqual(await self.shell(directory, commands(revoking)), 0)
        await self.until(
            lambda: any(one["event_type"] == "CertificateEvent" for one in gateway.events()),
            15,
            "the new list is in force",
        )
        self.assertNotEqual(await self.shell(directory, [f"{asked} -sf -m 10"]), 0)
        failed = await self.told(gateway, "HandshakeFailed", 2)
        self.assertEqual([one["reason"] for one in failed], ["no_certificate", "revoked"])
