"""Default for optional callbacks."""


def do_nothing(*_: object) -> None:
    """Accept any arguments and ignore them."""
