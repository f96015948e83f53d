"""Translation between the eras, on the way between the corridor and a server."""
