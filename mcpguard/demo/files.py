"""The folder the file tools work in: nothing outside it can be named, however a path is written."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLES = {
    "hello.txt": "Hello from the mcp-guard demo server.\n",
    "notes.md": "# Notes\n\n- read_file, write_file and delete_file work in this folder only\n",
    "data/numbers.csv": "n,square\n1,1\n2,4\n3,9\n",
}


class FileProblem(Exception):
    """A file operation that cannot be done; the text is for the caller."""


def seed(root: Path) -> None:
    """Write the sample files."""
    for name, content in SAMPLES.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")


class Folder:
    """Files below one directory.

    Every component of a path is opened by itself, relative to its parent's descriptor and without
    following symbolic links, so neither ``..`` nor a link, nor a directory swapped for a link
    between check and use, leads outside.
    """

    def __init__(self, root: Path, *, max_file: int, max_entries: int, max_depth: int) -> None:
        self._root = root
        self._max_file = max_file
        """Bytes of one file, read or written."""
        self._max_entries = max_entries
        """Entries of one directory, listed or created; directories are never created."""
        self._max_depth = max_depth

    def read(self, path: str) -> str:
        """The text of a file.

        Raises:
            FileProblem: It is missing, no regular file, too large or not UTF-8.
        """
        with (
            self._parent(path) as (directory, name),
            open(_open_regular(name, os.O_RDONLY, directory), "rb") as file,
        ):
            content = file.read(self._max_file + 1)
        if len(content) > self._max_file:
            raise FileProblem(f"{path} is larger than {self._max_file} bytes")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise FileProblem(f"{path} is not UTF-8 text") from problem

    def write(self, path: str, text: str) -> bool:
        """Create or replace a file; true when it is new.

        Raises:
            FileProblem: The text is too large, the directory is missing or full, or the path
                names something other than a regular file.
        """
        content = text.encode("utf-8")
        if len(content) > self._max_file:
            raise FileProblem(f"The content is larger than {self._max_file} bytes")
        with self._parent(path) as (directory, name):
            created = False
            try:
                descriptor = _open_regular(name, os.O_WRONLY, directory)
            except FileNotFoundError:
                if len(os.listdir(directory)) >= self._max_entries:
                    raise FileProblem("The directory is full") from None
                descriptor = _open_regular(name, os.O_WRONLY | os.O_CREAT, directory)
                created = True
            with open(descriptor, "wb") as file:
                file.truncate(0)
                file.write(content)
        return created

    def delete(self, path: str) -> None:
        """Remove a regular file.

        Raises:
            FileProblem: It is missing or not a regular file.
        """
        with self._parent(path) as (directory, name):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise FileProblem(f"{path} is not a file")
            os.unlink(name, dir_fd=directory)

    def entries(self, path: str) -> list[tuple[str, str]]:
        """(name, "file" or "directory") of a directory's entries, by name; "" is the root.

        Links and special files are left out: no tool can open them.

        Raises:
            FileProblem: It is missing or not a directory.
        """
        with _explained(path), _opened(self._walk(self._split(path))) as directory:
            listed: list[tuple[str, str]] = []
            with os.scandir(directory) as found:
                for entry in found:
                    if len(listed) >= self._max_entries:
                        break
                    if entry.is_dir(follow_symlinks=False):
                        listed.append((_printable(entry.name), "directory"))
                    elif entry.is_file(follow_symlinks=False):
                        listed.append((_printable(entry.name), "file"))
        return sorted(listed)

    def plain(self, path: str) -> str:
        """The one way to write ``path``: no empty or ``.`` components.

        Raises:
            FileProblem: It is absolute, leads upwards or has too many components.
        """
        return "/".join(self._split(path))

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open parent directory and the last component, errors put into words."""
        parts = self._split(path)
        if not parts:
            raise FileProblem("The path names no file")
        with _explained(path), _opened(self._walk(parts[:-1])) as directory:
            yield directory, parts[-1]

    def _split(self, path: str) -> list[str]:
        if path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise FileProblem("The path must be relative and stay inside the demo folder")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if len(parts) > self._max_depth:
            raise FileProblem("The path has too many components")
        return parts

    def _walk(self, parts: list[str]) -> int:
        """Open the directory ``parts`` leads to; the caller closes it."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts:
            with _opened(descriptor):
                descriptor = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor
                )
        return descriptor


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn errors of the operating system into words that name the caller's path, not ours."""
    try:
        yield
    except FileNotFoundError as problem:
        raise FileProblem(f"{path} does not exist") from problem
    except OSError as problem:  # ELOOP and ENOTDIR are how O_NOFOLLOW reports a link
        raise FileProblem(f"{path}: {problem.strerror}") from problem


def _open_regular(name: str, flags: int, directory: int) -> int:
    """Open a regular file in ``directory``; O_NONBLOCK so that a FIFO cannot make us wait."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileProblem(f"{name} is not a file")
    return descriptor


def _printable(name: str) -> str:
    """A name from the disk as valid Unicode: file names are bytes and need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
