"""Bills of material of the images in CycloneDX: Python packages with hashes and licences, Debian's of a built tree."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from release.checkout import image_text, project, version
from release.licences import licence_of


def locked_components(text: str) -> Iterator[Component]:
    """The packages of a lock file, each with the hashes of all files that would be taken."""
    entries = re.split(r"^(?=[A-Za-z0-9])", re.sub(r"^ *#.*\n", "", text, flags=re.M), flags=re.M)
    for entry in entries:
        named = re.match(r"([\w.-]+)==([^\s;\\]+)", entry)
        if named is None:
            continue
        name, is_at = canonicalize_name(named[1]), named[2]
        licence = licence_of(name)
        yield Component(
            name=name,
            version=is_at,
            type=ComponentType.LIBRARY,
            bom_ref=f"pkg:pypi/{name}@{is_at}",
            purl=PackageURL("pypi", name=name, version=is_at),
            hashes=[
                HashType(alg=HashAlgorithm.SHA_256, content=h) for h in re.findall(r"sha256:([0-9a-f]{64})", entry)
            ],
            licenses=[LicenseExpression(licence)] if licence else (),
        )


def debian_components(status: str, release: str) -> Iterator[Component]:
    """The installed packages of a ``/var/lib/dpkg/status``.

    Args:
        status: its text.
        release: name and number of the distribution, as in ``debian-12``.
    """
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", paragraph, re.M))
        if fields.get("Status") != "install ok installed":
            continue
        purl = PackageURL(
            *("deb", release.partition("-")[0], fields["Package"], fields["Version"]),
            qualifiers={"arch": fields["Architecture"], "distro": release},
        )
        yield Component(
            name=fields["Package"],
            version=fields["Version"],
            type=ComponentType.LIBRARY,
            bom_ref=purl.to_string(),
            purl=purl,
        )


def bill(root: Path, image: str, tree: Path | None = None) -> str:
    """The bill of an image as JSON; the same checkout and tree give the same text.

    Args:
        root: the checkout.
        image: a target of docker/Dockerfile.
        tree: the root file system of the built image, whose Debian packages come in, too.
    """
    name, is_at = f"calibox-{image}", version(root)
    bom = Bom(components=[*locked_components(image_text(root, image)), *(_distribution(tree) if tree else ())])
    bom.serial_number = uuid5(
        NAMESPACE_URL, "\n".join([*sorted(str(c.bom_ref.value) for c in bom.components), name, is_at])
    )
    bom.metadata.component = Component(
        name=name,
        version=is_at,
        type=ComponentType.CONTAINER,
        bom_ref=f"{name}@{is_at}",
        licenses=[LicenseExpression(str(project(root)["license"]))],
    )
    bom.register_dependency(bom.metadata.component, bom.components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=2) + "\n"


def findings(text: str) -> list[str]:
    """What the schema of CycloneDX 1.6 has against a bill."""
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text, all_errors=True)
    return [str(error.data) for error in errors or ()]


def write_bills(root: Path, images: tuple[str, ...], folder: Path, trees: Path | None = None) -> list[str]:
    """Writes ``<image>.cdx.json`` for each image, with Debian's packages where ``trees`` holds ``<image>/rootfs``."""
    folder.mkdir(parents=True, exist_ok=True)
    wrong = []
    for image in images:
        tree = trees / image / "rootfs" if trees else None
        text = bill(root, image, tree if tree and tree.is_dir() else None)
        wrong += [f"{image}: {finding}" for finding in findings(text)]
        target = folder / f"{image}.cdx.json"
        partly = target.with_suffix(".part")
        partly.write_text(text)
        partly.replace(target)
        sys.stdout.write(f"{target}: {len(json.loads(text)['components'])} packages\n")
    return wrong


def _distribution(tree: Path) -> Iterator[Component]:
    told = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', (tree / "etc" / "os-release").read_text(), re.M))
    return debian_components((tree / "var/lib/dpkg/status").read_text(), f"{told['ID']}-{told['VERSION_ID']}")
