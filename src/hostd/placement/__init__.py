"""Which PCs have a member of etcd: decides one change at a time, and carries it out. Read `decide.py` first.

May import agent, pc and nodestore.
"""
