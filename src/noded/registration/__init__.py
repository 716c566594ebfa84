"""What a node writes into etcd about itself: its claim `alive/<node>` and its status. Also the watch on one key.

Imports nothing else of noded. Read `claim.py` first.
"""
