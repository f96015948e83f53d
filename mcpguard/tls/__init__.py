"""TLS: the material of listeners and of our own connections, read again when it changes."""
