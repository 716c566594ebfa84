"""The loop of hostd: reads what its PC must be and what runs, and changes what differs. Read `plan.py` first.

May import pc and nodestore.
"""
