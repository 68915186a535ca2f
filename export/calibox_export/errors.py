"""What can go wrong between a checkpoint and a bundle."""

from calibox_core.errors import CaliboxError


class ExportError(CaliboxError):
    """A network does not follow the contract that the graph is built on, or its graph gives other numbers."""
