"""What is left for the garbage collector when something is over."""

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counted_garbage() -> Iterator[Counter[str]]:
    """Names of the types of what only the collector could free of what happens inside.

    The counter is filled at the end of the block. Garbage holds a request's body and answer until
    a collection, and collections stop everything else; so what comes with every request must
    leave none.
    """
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(type(one).__name__ for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()
