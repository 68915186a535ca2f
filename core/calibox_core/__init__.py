"""The contract every room stands on: boxes, letterbox, score fusion, CalibratedNMS reference, bundle manifest."""

from importlib.metadata import version

__version__ = version("calibox")
