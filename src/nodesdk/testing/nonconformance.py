"""The error that a check raises if the contract is broken."""


class AppNonconformance(AssertionError):
    """The application breaks its contract; the message says how."""
