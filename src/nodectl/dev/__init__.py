"""A whole cluster on one PC, for development, demonstrations and tests.

May import the client and inventory. Read `cluster.py` first. Nothing is imported here: `nodectl.dev.tile` runs once
for every node and must stay small.
"""
