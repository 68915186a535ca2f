"""The contract every room stands on: boxes, letterbox, score fusion, CalibratedNMS reference, bundle manifest."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("calibox")
except PackageNotFoundError:  # a checkout on the path of a machine on which nothing is installed
    __version__ = "0+checkout"
