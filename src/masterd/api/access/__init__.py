"""Who may use the HTTP API of a masterd, and for what.

`browser_rules`: which requests a web browser may send here. It may import nodestore and `roles`, but no route.
"""
