"""Tests of what may be started."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.config.commands import command, is_shell, runs_a_shell
from tests.config.samples import problems, read


class CommandTests(SynchronousTestCase):
    """Programs and what is refused as one."""

    def refused(self, text: str) -> str:
        """The reason."""
        return str(self.assertRaises(ValueError, command, text))

    def test_programs(self) -> None:
        """Names and paths of programs are accepted as they are."""
        for text in ("npx", "/usr/bin/python3.11", "./server", "my_server-2", "a+b", "C:x"):
            self.assertEqual(command(text), text)

    def test_shells(self) -> None:
        """A shell is refused under all its names, whatever its path, version or case."""
        for text in (
            *("sh", "bash", "/bin/sh", "/usr/local/bin/zsh", "dash", "fish", "ksh93", "bash5"),
            *("bash-5.2", "BASH", "cmd", "cmd.exe", "powershell", "pwsh.exe", "rbash"),
        ):
            self.assertIn("a shell is refused", self.refused(text), text)
            self.assertTrue(is_shell(text))
        for text in ("shell-server", "python3", "sh2json", "cmdr", "fishnet"):
            self.assertFalse(is_shell(text), text)

    def test_link_to_a_shell(self) -> None:
        """A link is judged by where it leads."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        link = directory / "server"
        link.symlink_to("/bin/sh")
        self.assertIn("a shell is refused", self.refused(str(link)))
        loop = directory / "loop"
        loop.symlink_to(loop)
        self.assertEqual(command(str(loop)), str(loop))

    def test_metacharacters(self) -> None:
        """A command line for a shell is refused, with the character that shows it."""
        for character in "|&;<>()$`\\\"'*?[]{}!\n\r\t\0":
            self.assertIn(
                f"has the shell metacharacter {character!r}", self.refused(f"a{character}b")
            )

    def test_blanks(self) -> None:
        """Arguments belong elsewhere; a blank in a real file's name is no mistake."""
        self.assertIn("its arguments in args", self.refused("npx -y server"))
        self.assertIn("contains a blank", self.refused(" npx"))
        self.assertEqual(self.refused(""), "empty")
        self.assertIn("begins with ~", self.refused("~/server"))
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        program = directory / "my server"
        program.write_text("")
        self.assertEqual(command(str(program)), str(program))

    def test_wrappers(self) -> None:
        """What starts another program is judged by that one."""
        for text, args in (
            ("env", ("bash", "-c", "x")),
            ("/usr/bin/env", ("-i", "A=1", "sh")),
            ("env", ("-S", "bash -c x")),
            ("env", ("-iS", "bash -c x")),
            ("env", ("--split-string=bash -c x",)),
            ("busybox", ("ash",)),
            ("env", ("busybox", "sh")),
        ):
            self.assertTrue(runs_a_shell(text, args), args)
        harmless: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("env", ("A=1", "node", "sh")),
            ("npx", ("sh",)),
            ("env", ()),
            ("busybox", ("httpd",)),
        )
        for program, rest in harmless:
            self.assertFalse(runs_a_shell(program, rest), args)

    def test_in_a_file(self) -> None:
        """The configuration reports both, with the reason."""
        found = problems('[upstream]\ncommand = "bash"\nargs = ["-c", "x"]\n')
        self.assertIn('upstream.command: "bash": a shell is refused: what a shell runs', found[0])
        found = problems('[upstream]\ncommand = "env"\nargs = ["bash"]\n')
        self.assertIn("upstream.args: a shell started by env is refused", found[0])
        read('[upstream]\ncommand = "env"\nargs = ["npx", "bash"]\n')
