"""Helpers for drivers, built-in and third-party: running a command, health checks, bounded output, blocking calls.

May import drivers.contract. Read `command.py` first.
"""
