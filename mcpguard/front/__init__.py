"""The client side: HTTP in, answers and event streams out."""
