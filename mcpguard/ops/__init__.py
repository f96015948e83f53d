"""Running the gateway: worker processes, and what the system around it is told."""
