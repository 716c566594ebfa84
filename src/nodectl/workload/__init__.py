"""A steady load of commands from a client, and checks of its outcome. The demo and the drill use both.

May import the client. Read `steady_load.py` first.
"""
