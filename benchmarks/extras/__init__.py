"""What the main table does not show: memory, latency at a given rate, what each feature costs."""
