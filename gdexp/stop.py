"""A request to end the process that is answered between two steps, when a state can be kept.

Set by the command's signal handler, for the command-line process only.
"""

watched = False  # whether somebody looks at the request soon
requested: int | None = None  # the number of the signal


def obey() -> None:
    """End as an interruption does if that was requested."""
    if requested is not None:
        raise KeyboardInterrupt(requested)
