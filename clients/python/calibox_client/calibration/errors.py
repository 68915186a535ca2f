"""Why a calibration stopped."""

from calibox_core.errors import CaliboxError


class CalibrationError(CaliboxError):
    """A calibration cannot start or go on; the text says why, and what to do."""
