"""The connections of the HTTP server: which are admitted, how long each may take, and the server on top of them.

Read `connection_guard.py` first; `guarded_server.py` builds aiohttp's server on it.
"""
