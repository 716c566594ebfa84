"""`nodectl backup` and `nodectl recover`: a snapshot of etcd, and a new epoch after a restore.

May import the terminal and the client. Read `recovery.py` first.
"""
