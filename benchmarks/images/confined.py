"""A root file system run as compose.yaml runs its image: read-only, as the image's user, without capabilities.

bubblewrap makes the namespaces, and setpriv of the tree becomes the user. The network is the machine's own, so that the
server is reached on 127.0.0.1; the limits of memory and cores of a container are not set.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOP_LIMIT_S = 45  # compose.yaml gives 40


@dataclass(frozen=True)
class Image:
    """The tree of an image, and what it says of its start."""

    root: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Image":
        """What docker/rootless-build.sh leaves of a target."""
        return cls(folder / "rootfs", json.loads((folder / "image.json").read_text())["Docker"]["config"])

    @property
    def start(self) -> list[str]:
        """Entry point and command."""
        return [*self.config["Entrypoint"], *self.config["Cmd"]]

    @property
    def health(self) -> list[str]:
        """The command of the health check, without its word CMD."""
        return list(self.config["Healthcheck"]["Test"][1:])

    def command(
        self, words: list[str], variables: dict[str, str], mounts: dict[str, Path], *, info: int | None = None
    ) -> list[str]:
        """The whole command that runs ``words`` in the tree.

        Args:
            words: the program and its arguments.
            variables: added to those of the image.
            mounts: folders of this machine by where they are seen, read-only.
            info: a file descriptor that bubblewrap tells the number of the process on.
        """
        user, _, group = self.config["User"].partition(":")
        environment = dict(pair.split("=", 1) for pair in self.config["Env"]) | variables
        wrap = ["bwrap", "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev"]
        for place in ("/tmp", "/var/cache/calibox"):
            wrap += ["--perms", "1777", "--tmpfs", place]
        for place, folder in mounts.items():
            wrap += ["--ro-bind", str(folder.resolve()), place]
        wrap += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1", "--die-with-parent", "--new-session"]
        wrap += [] if info is None else ["--info-fd", str(info)]
        # They last until setpriv has become the user; bubblewrap itself sets no-new-privileges.
        wrap += [word for right in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{right}")]
        wrap += ["--clearenv", *(word for pair in environment.items() for word in ("--setenv", *pair))]
        drop = ["/usr/bin/setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
        return [*wrap, "--chdir", "/", "--", *drop, "--inh-caps=-all", "--bounding-set=-all", *words]

    def run(self, words: list[str], variables: dict[str, str], mounts: dict[str, Path]) -> "Done":
        """Runs a program in the tree to its end."""
        done = subprocess.run(self.command(words, variables, mounts), capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    status: int
    output: str
    errors: str


class Confined:
    """The image's own program, started."""

    def __init__(self, process: subprocess.Popen[str], pid: int) -> None:
        """What `started` made."""
        self._process, self.pid = process, pid

    def facts(self) -> dict[str, str]:
        """Of /proc: user, capabilities, no-new-privileges, the most memory that it had."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)

    def stop(self) -> int:
        """SIGTERM to the program itself, as a container engine sends it; its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self._process.wait(STOP_LIMIT_S)


@contextmanager
def started(image: Image, variables: dict[str, str], mounts: dict[str, Path], log: Path) -> Iterator[Confined]:
    """Starts the image's program; it is gone when the block ends, and what it wrote is in ``log``."""
    reading, writing = os.pipe()
    told_pid = 0
    command = image.command(image.start, variables, mounts, info=writing)
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, text=True, pass_fds=[writing]) as process,
    ):
        os.close(writing)
        try:
            with os.fdopen(reading) as told:
                text = told.read()
            if not text:
                raise RuntimeError(f"bubblewrap did not start {image.root}: {log.read_text()}")
            told_pid = int(json.loads(text)["child-pid"])
            yield Confined(process, told_pid)
        finally:
            if process.poll() is None:
                os.kill(told_pid or process.pid, signal.SIGKILL)  # bubblewrap ends with what it started
