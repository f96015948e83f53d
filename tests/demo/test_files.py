"""Tests of the demo server's folder."""

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.demo.files import SAMPLES, FileProblem, Folder, seed


class FolderTests(SynchronousTestCase):
    """`Folder` keeps inside its root and within its bounds."""

    def setUp(self) -> None:
        """A seeded folder beside a file that must stay out of reach."""
        base = Path(self.mktemp()).absolute()
        self.root = base / "root"
        self.root.mkdir(parents=True)
        seed(self.root)
        self.secret = base / "secret.txt"
        self.secret.write_text("secret")
        self.folder = Folder(self.root, max_file=100, max_entries=4, max_depth=3)

    def refused(self, path: str) -> str:
        """Read, write, delete and list all refuse ``path``; the words of the first."""
        words = str(self.assertRaises(FileProblem, self.folder.read, path))
        self.assertRaises(FileProblem, self.folder.write, path, "x")
        self.assertRaises(FileProblem, self.folder.delete, path)
        self.assertRaises(FileProblem, self.folder.entries, path)
        self.assertEqual(self.secret.read_text(), "secret")
        self.assertNotIn(str(self.root), words)
        return words

    def test_samples(self) -> None:
        """A seeded folder holds the samples, readable and listed."""
        for name, content in SAMPLES.items():
            self.assertEqual(self.folder.read(name), content)
        self.assertEqual(
            self.folder.entries(""),
            [("data", "directory"), ("hello.txt", "file"), ("notes.md", "file")],
        )
        self.assertEqual(self.folder.entries("./data/"), [("numbers.csv", "file")])

    def test_outside(self) -> None:
        """No spelling of a path leads outside."""
        for path in (
            "../secret.txt",
            "data/../../secret.txt",
            str(self.secret),
            "/etc/passwd",
            "hello.txt\0",
            "..",
        ):
            self.refused(path)

    def test_links(self) -> None:
        """Symbolic links are not followed, neither as the last component nor on the way."""
        (self.root / "link.txt").symlink_to(self.secret)
        (self.root / "up").symlink_to(self.root.parent)
        self.refused("link.txt")
        self.refused("up/secret.txt")
        self.assertNotIn("link.txt", dict(self.folder.entries("")))

    def test_dangling_link_is_not_created_through(self) -> None:
        """Writing to a link that points at nothing creates nothing elsewhere."""
        target = self.root.parent / "new.txt"
        (self.root / "link.txt").symlink_to(target)
        self.assertRaises(FileProblem, self.folder.write, "link.txt", "x")
        self.assertFalse(target.exists())

    def test_special_files(self) -> None:
        """A FIFO or a directory is no file, and opening the FIFO does not wait."""
        os.mkfifo(self.root / "fifo")
        before = len(os.listdir("/proc/self/fd"))
        for path in ("fifo", "data"):
            self.assertRaises(FileProblem, self.folder.read, path)
            self.assertRaises(FileProblem, self.folder.write, path, "x")
            self.assertRaises(FileProblem, self.folder.delete, path)
        self.assertRaises(FileProblem, self.folder.entries, "hello.txt")
        self.assertRaises(FileProblem, self.folder.read, "")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_write_and_delete(self) -> None:
        """Writing creates, then replaces whole; deleting removes; a missing file is named."""
        self.assertTrue(self.folder.write("data/a.txt", "long content"))
        self.assertFalse(self.folder.write("data/a.txt", "short"))
        self.assertEqual(self.folder.read("data//./a.txt"), "short")
        self.folder.delete("data/a.txt")
        words = str(self.assertRaises(FileProblem, self.folder.read, "data/a.txt"))
        self.assertEqual(words, "data/a.txt does not exist")
        self.assertRaises(FileProblem, self.folder.write, "nowhere/a.txt", "x")

    def test_bounds(self) -> None:
        """Files, directories and paths have their limits, reading as well as writing."""
        self.assertTrue(self.folder.write("full.txt", "x" * 100))
        self.assertRaises(FileProblem, self.folder.write, "full.txt", "ä" * 51)
        self.assertEqual(len(self.folder.read("full.txt")), 100)
        self.assertRaises(FileProblem, self.folder.write, "fifth.txt", "x")
        (self.root / "large.txt").write_text("x" * 101)
        self.assertRaises(FileProblem, self.folder.read, "large.txt")
        self.assertEqual(len(self.folder.entries("")), 4)
        self.assertRaises(FileProblem, self.folder.read, "a/b/c/d")
        self.assertRaises(FileProblem, self.folder.read, "x" * 5000)

    def test_not_text(self) -> None:
        """Bytes that are no text are refused, and a name that is no text is listed readably."""
        (self.root / "binary").write_bytes(b"\xff")
        self.assertRaises(FileProblem, self.folder.read, "binary")
        with open(os.fsencode(self.root / "data") + b"/\xff", "wb"):
            pass
        self.assertIn(("\N{REPLACEMENT CHARACTER}", "file"), self.folder.entries("data"))

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.sampled_from(["..", ".", "", "data", "up", "secret.txt", "root", "/"])))
    def test_any_path(self, parts: list[str]) -> None:
        """No combination of components reads the file beside the root."""
        if not (self.root / "up").is_symlink():
            (self.root / "up").symlink_to("..")
        try:
            self.assertNotEqual(self.folder.read("/".join(parts)), "secret")
        except FileProblem:
            pass

    def test_plain(self) -> None:
        """A path has one plain spelling."""
        self.assertEqual(self.folder.plain("./data//a/"), "data/a")
        self.assertRaises(FileProblem, self.folder.plain, "../a")
