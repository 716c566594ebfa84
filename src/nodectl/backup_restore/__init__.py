"""Saves a backup of etcd (`nodectl backup`), and begins a new epoch after a restore (`nodectl recover`).

May import the terminal and the client. Read `recovery.py` first.
"""
