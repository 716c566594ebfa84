"""`BlockingClient`, the client for scripts without asyncio.

May import everything else of the client. Read `blocking_client.py` first.
"""
