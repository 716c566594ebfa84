"""What a check raises."""


class Nonconformance(AssertionError):
    """The application breaks its contract; the message says how."""
