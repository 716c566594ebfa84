"""A real browser that opens the page of a stranger, and the page."""
