"""Finds an etcd that is new enough on this PC, or downloads one, for development and tests.

May import nothing else of nodectl. Read `find.py` first: `python -m nodectl.etcd_binary.find` prints its folder.
"""
