"""One-shot actions: what a node is asked to do once, such as a restart or a reboot.

noded writes that it begins before it begins, comparing what the leader wrote, so an action begins at most once.
May import reconcile, registration and drivers. Read `decide.py` first: it is pure; then `actor.py`.
"""
