"""Rate limiters behind one interface."""
