"""The HTTP API of one masterd.

Routes, the reading of request bodies, local and linearizable reads, event streams, problem documents, and passing on
to the leader what only the leader can do. It decides nothing about leadership or commits.
May import every other package of masterd. Read `routes.py` first: it lists each route with its handler.
"""
