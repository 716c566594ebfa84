"""The signer: hostd's HTTPS port, by which a PC joins, and the client of it. Read `joins.py` first.

May import placement, agent, pc and nodestore.
"""
