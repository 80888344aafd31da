"""What keeps a container from serving, as one message for people."""


class Fault(Exception):
    """The container refuses to start: settings, archives or host do not go together."""
