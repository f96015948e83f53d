"""Files of a bounded size, read without waiting."""

import os
import stat
from pathlib import Path


class Unreadable(Exception):
    """A file cannot be read; the text says why, without its name."""


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; raises `Unreadable`."""
    try:
        # Opening a named pipe would wait for its writer for ever without O_NONBLOCK.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Before it is a file of Python's, which leaves the descriptor of a directory open.
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unreadable("is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except PermissionError:
        raise Unreadable("may not be read by the user the gateway runs as") from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise Unreadable(f"is larger than {limit} bytes")
    return data
