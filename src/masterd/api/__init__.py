"""The HTTP API of one masterd.

Routes, parsing of request bodies, local and linearizable reads, event streams, problem documents, and forwarding to
the leader of requests that only the leader can serve. It decides nothing about leadership or commits.
It may import every other package of masterd. Read `routes.py` first: it lists each route with its handler.
"""
