"""The remembered results of commands: what the leader forgets early, and how a large result is found again.

May import the other modules of term.
"""
