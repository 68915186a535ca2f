"""Errors that calibox raises on purpose. Their text is a sentence for the person who can mend the cause."""

from typing import ClassVar


class CaliboxError(Exception):
    """Base of the tree; the command line prints its text without a traceback and ends with ``exit_status``."""

    exit_status: ClassVar[int] = 1


class InvalidParameterError(CaliboxError, ValueError):
    """A value is not one that the parameter accepts; the text names the parameter, the value and the range."""


class ImageError(CaliboxError):
    """Image bytes that cannot become pixels."""


class UnsupportedImageError(ImageError):
    """The bytes are not an image in a format that is read."""


class TruncatedImageError(ImageError):
    """The image starts well and ends too early, or is damaged inside."""


class BundleError(CaliboxError):
    """A bundle is incomplete, altered, or of a schema this version does not read."""


class DatasetError(CaliboxError):
    """A data set is missing or malformed; the text says which file and what was expected."""
