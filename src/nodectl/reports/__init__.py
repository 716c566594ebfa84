"""Reports of takeovers for `nodectl why` and `nodectl drill`: the steps, their times, and a waterfall chart.

May import the terminal and the client. Read `takeover.py` first.
"""
