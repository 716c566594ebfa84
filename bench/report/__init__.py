"""The page and the pictures that a run of the bench writes.

May import harness. Read `page.py` first.
"""
