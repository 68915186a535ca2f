"""Licences of the packages in the images, as SPDX expressions, and which of them an image may hold."""

from email.message import Message
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from typing import cast

from license_expression import ExpressionError, LicenseSymbol, Licensing

NVIDIA = "LicenseRef-NVIDIA-Proprietary"
PERMISSIVE = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-CMU"),
        *("PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "Apache-2.0 WITH LLVM-exception"),
    }
)
# Binds changes of its own files alone; what stands beside them stays free.
FILE_BOUND = frozenset({"MPL-2.0"})

# What the classifiers and free texts of metadata mean. "BSD" without a number: the strictest that it can mean.
_NAMES = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "FreeBSD": "BSD-2-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": NVIDIA,
    "Python Software Foundation License": "PSF-2.0",
}

# Read in the packages' own files: their metadata does not say, or is not installed beside the tests.
READ = {
    "cuda-toolkit": NVIDIA,  # names other packages, and holds nothing
    "faster-coco-eval": "Apache-2.0",
    "mako": "MIT",
    "pycuda": "MIT",
    "pytools": "MIT",
    "siphash24": "Apache-2.0 OR LGPL-2.1-or-later",
    "tensorrt-cu13-bindings": NVIDIA,
}

_licensing = Licensing()


@cache
def licence_of(package: str) -> str | None:
    """The SPDX expression of a package by its canonical name; None where neither this module nor metadata says."""
    if package in READ:
        return READ[package]
    try:
        told: Message = cast(Message, metadata(package))  # which it is; its protocol has no `get`
    except PackageNotFoundError:
        return None
    if told.get("License-Expression"):
        return str(told["License-Expression"])
    kinds = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or [] if c.startswith("License :: ")]
    if "Other/Proprietary License" in kinds and package.startswith("nvidia-"):
        return NVIDIA
    known = [_NAMES[kind] for kind in kinds if kind in _NAMES]
    if known:
        return " OR ".join(known)  # classifiers do not say whether all or any of them hold
    free = str(told.get("License") or "").strip()
    return _NAMES.get(free) or (free if _symbols(free) else None)


def may_be_in(image: str, licence: str) -> bool:
    """Whether an image may hold what is under a licence: one branch of each OR has to be allowed."""
    allowed = PERMISSIVE | FILE_BOUND | ({NVIDIA} if image in ("gpu", "train") else frozenset())
    return _holds(_licensing.parse(licence), allowed)


def _holds(expression: object, allowed: frozenset[str]) -> bool:
    """An expression of AND, OR and licences, each of which is allowed or not."""
    if isinstance(expression, LicenseSymbol):
        return str(expression) in allowed
    joined = [_holds(argument, allowed) for argument in expression.args]  # type: ignore[attr-defined]
    return any(joined) if isinstance(expression, _licensing.OR) else all(joined)


def _symbols(text: str) -> bool:
    """Whether a free text is an expression of licences that this module knows."""
    try:
        parsed = _licensing.parse(text)
    except ExpressionError:
        return False
    return parsed is not None and {str(symbol) for symbol in parsed.symbols} <= PERMISSIVE | FILE_BOUND | {NVIDIA}
