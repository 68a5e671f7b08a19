"""Why runs of a sweep aren't trained as one program."""


class Apart(Exception):
    """Why runs can't be trained as one program."""


class Few(Apart):
    """They are too few for it to pay."""
