"""Translation between the protocol's eras: pure, one message at a time."""
