"""Reading a file whole, without waiting and without reading more than was agreed."""

import os
import stat
from pathlib import Path


class NotReadable(Exception):
    """A file cannot be read; the message says why, without its name."""


def read_file(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """The content of a regular file of at most ``limit`` bytes, with its status.

    Raises:
        FileNotFoundError: there is none.
        NotReadable: anything else.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise NotReadable(f"cannot be read: {why}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotReadable("is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise NotReadable(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise NotReadable(f"is larger than {limit} bytes")
    return data, status
