"""Repairs what another program deleted or changed in etcd, from the state in memory.

May import the other modules of term, replication and state_machine. Read `store_repair.py` first.
"""
