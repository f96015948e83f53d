"""Several processes behind one listening socket: the parent, its workers, the channel between."""
