"""The sections of `service.py`, and what they share: the server's program, connections, requests, crowds."""
