"""Why an evaluation stopped."""

from calibox_core.errors import CaliboxError


class EvaluationError(CaliboxError):
    """An evaluation cannot start or go on; the text says why, and what to do."""
