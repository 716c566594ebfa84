"""Steady load from a client, and the verdict on what became of it: used by the demo and the drill.

May import the client. Read `steady_load.py` first.
"""
