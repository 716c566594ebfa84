"""Writes what a node reports about itself: its claim `alive/<node>` and its status. Also contains `follow_key`.

Imports nothing else of noded. Read `claim.py` first.
"""
