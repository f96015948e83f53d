"""What may be started as a stdio server: a program with its arguments, never a shell."""

import re
from pathlib import Path, PurePath

SHELLS = frozenset(
    {
        *("sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "ksh93", "mksh", "pdksh", "yash"),
        *("fish", "csh", "tcsh", "elvish", "xonsh", "osh", "ysh"),
        *("cmd", "powershell", "pwsh", "command.com"),
    }
)
WRAPPERS = frozenset({"env", "busybox", "toybox"})
"""Programs that run the one named by their first plain argument."""
METACHARACTERS = re.compile(r"""[|&;<>()$`\\"'*?\[\]{}!\n\r\t\0]""")
VERSION = re.compile(r"[-.]?[0-9][0-9.]*\Z")
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


def command(text: str) -> str:
    """The program of ``command``; raises ValueError with the reason it is refused."""
    if not text:
        raise ValueError("empty")
    found = METACHARACTERS.search(text)
    if found:
        raise ValueError(
            f"has the shell metacharacter {found[0]!r}; no shell reads this: give the program"
            " alone here and its arguments in args"
        )
    if text.startswith("~"):
        raise ValueError("begins with ~, which no shell expands here; write the path out")
    if text != text.strip() or (" " in text and not Path(text).is_file()):
        raise ValueError("contains a blank; give the program alone here and its arguments in args")
    if is_shell(text):
        raise ValueError(f"a shell {REASON}")
    return text


REASON = (
    "is refused: what a shell runs can be changed by what is put into its arguments; name the"
    " server's own program"
)


def is_shell(text: str) -> bool:
    """Whether a program is a shell by its name, or is a link to one."""
    return _named_like_a_shell(text) or (
        "/" in text and _named_like_a_shell(str(_target(Path(text))))
    )


def runs_a_shell(text: str, args: tuple[str, ...]) -> bool:
    """Whether the program only starts another one, and that is a shell (``env bash``)."""
    if _stem(text) not in WRAPPERS:
        return False
    for arg in args:
        if arg.startswith("-") or ASSIGNMENT.match(arg):
            # `env -S "bash -c …"` splits its argument like a shell.
            if _stem(text) == "env" and re.match(r"-[A-Za-z]*S|--split-string", arg):
                return True
            continue
        return is_shell(arg) or _stem(arg) in WRAPPERS
    return False


def _target(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long
        return path


def _stem(text: str) -> str:
    name = PurePath(text.replace("\\", "/")).name.lower()
    return name.removesuffix(".exe")


def _named_like_a_shell(text: str) -> bool:
    name = _stem(text)
    return name in SHELLS or VERSION.sub("", name) in SHELLS
