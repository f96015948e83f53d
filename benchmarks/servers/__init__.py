"""Programs that the harness starts: upstreams, references, peers without a command of their own."""
