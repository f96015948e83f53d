"""Authenticators: each turns a request's credentials into one Principal."""
