"""Commands for scripts and people whose answer may be lost: an id for a repeat, and the question for the outcome."""
