"""Helpers for drivers, ours and those of users: running a command, health checks, bounded output, blocking calls.

May import drivers.contract. Read `command.py` first.
"""
