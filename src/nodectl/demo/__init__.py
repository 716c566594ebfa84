"""`nodectl demo`: start a cluster on this PC, inject faults under load, and check each promise.

May import dev, workload and the client. Read `play.py` first, then `acts.py`.
"""
