"""Sessions of web browsers: a login with a token, the cookie, and the move of a session to another master.

`browser_sessions` says how a session is stored, and why it can neither be used twice nor come back after its end.
"""
