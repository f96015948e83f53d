"""Tests of the repository: nothing in it that should not be."""

import re
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]
MAX_SIZE = 300_000
"""Bytes of a file; nothing written by hand is larger."""

# Written so that this file does not contain what it looks for.
SECRETS = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{60,}",
    "API key of ours": r"\bmcp_[A-Za-z0-9_-]{43}\b",
    "AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b",
    "Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{30,}",
    "Google key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "signed token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{40,}",
    "npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
}
PLACES = {
    "path of one machine": r"(?:^|[\s\"'=(:])/(?:wor[k]|roo[t]|far[m])/",
    "path of one user": r"/home/(?!me\b|user\b|alice\b|x\b)[a-z]",
    "private interpreter": r"\.pyen[v]\b",
    "package registry": r"\b(?:pyp[i]\.org|pythonhoste[d]\.org|npmj[s]\.\w+|crate[s]\.io)\b",
    "note to self": r"\b(?:TOD[O]|FIXM[E]|XX[X]|HAC[K])\b",
}
GENERATED = re.compile(
    r"(?:\.pyc|\.log|\.pid|\.db|\.sqlite|\.lock|\.whl|\.tar\.gz|~|\.orig|\.rej|dropin\.cache)$"
)


def tracked() -> list[Path]:
    """The files that git knows; raises `SkipTest` outside a checkout."""
    try:
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"],
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as problem:
        raise SkipTest("this is no git checkout") from problem
    paths = [ROOT / name.decode("utf-8") for name in listed.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def findings(text: str, patterns: dict[str, str]) -> list[str]:
    """What of ``patterns`` is in ``text``: kind and line."""
    found = []
    for kind, pattern in patterns.items():
        for match in re.finditer(pattern, text, re.MULTILINE):
            found.append(f"{kind}, line {text.count(chr(10), 0, match.start()) + 1}")
    return found


class RepositoryTests(SynchronousTestCase):
    """Every file that git knows."""

    def search(self, patterns: dict[str, str]) -> list[str]:
        """Findings in all files, with their paths."""
        paths = tracked()
        self.assertGreater(len(paths), 100)
        return [
            f"{path.relative_to(ROOT)}: {finding}"
            for path in paths
            for finding in findings(path.read_text(encoding="utf-8"), patterns)
        ]

    def test_no_secrets(self) -> None:
        """Nothing looks like a credential."""
        self.assertEqual(self.search(SECRETS), [])

    def test_no_places(self) -> None:
        """Nothing depends on one machine or names a registry's host; nothing is left to do."""
        self.assertEqual(self.search(PLACES), [])

    def test_written_by_hand(self) -> None:
        """No generated, binary or oversized file is kept."""
        for path in tracked():
            name = str(path.relative_to(ROOT))
            self.assertIsNone(GENERATED.search(name), name)
            self.assertLess(path.stat().st_size, MAX_SIZE, name)
            self.assertNotIn(b"\0", path.read_bytes(), name)

    def test_search_finds(self) -> None:
        """The patterns find what they are for."""
        for patterns, text in (
            (SECRETS, "-----BEGIN RSA PRIVATE KEY-----\n" + "A" * 64),
            (SECRETS, "key = mcp" + "_" + "a" * 43),
            (SECRETS, "AKIA" + "A" * 16),
            (SECRETS, "gh" + "p_" + "a" * 36),
            (SECRETS, "xox" + "b-" + "1" * 40),
            (SECRETS, "AI" + "za" + "a" * 35),
            (SECRETS, "eyJ" + "a" * 20 + ".ey" + "J" + "a" * 20 + "." + "a" * 43),
            (SECRETS, "npm" + "_" + "a" * 36),
            (PLACES, "open('" + "/wo" + "rk/x')"),
            (PLACES, "/ro" + "ot/.cache"),
            (PLACES, "/home/" + "bob/x"),
            (PLACES, "https://" + "pypi" + ".org/simple"),
            (PLACES, "# TO" + "DO: later"),
        ):
            self.assertEqual(len(findings(text, patterns)), 1, text)
