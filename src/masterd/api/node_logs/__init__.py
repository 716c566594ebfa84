"""The logs of the programs that nodes run: the connections of their nodeds, and the requests of clients.

Read `node_logs.py` first; `node_link.py` is one connection.
"""
