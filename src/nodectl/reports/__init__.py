"""What `nodectl why` shows: a takeover step by step, and its time line as a picture.

May import the terminal and the client. Read `takeover.py` first.
"""
