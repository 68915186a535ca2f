"""A process that starts a Ray cluster of this machine and serves a Serve config on it: ``FOLDER CORES CONFIG``.

On its first line it tells the cluster's address. It ends with SIGINT, and the cluster with it.
"""

import sys

import ray
from ray.exceptions import RayError
from ray.serve.scripts import cli

MEMORY = 80 * 2**20  # of the object store, which holds answers only; the least that Ray takes is 75 MiB
TRIES = 3  # Ray gives its processes 30 s to start, which a machine with other work may take


def start(folder: str, cores: int) -> str:
    """Starts the cluster; its address."""
    for left in reversed(range(TRIES)):
        try:
            context = ray.init(
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=MEMORY,
                log_to_driver=False,
                namespace="serve",
                _temp_dir=folder,
            )
        except Exception as error:  # Ray has no class for it
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
        else:
            return str(context.address_info["gcs_address"])
    raise AssertionError


def serve(config: str) -> None:
    """Serves until SIGINT. Ray waits a minute for its proxy, and has it go on starting when asked again."""
    for left in reversed(range(TRIES)):
        try:
            cli(["run", config])
        except (RayError, TimeoutError):
            if not left:
                raise


if __name__ == "__main__":
    folder, cores, config = sys.argv[1:]
    print(start(folder, int(cores)), flush=True)
    serve(config)
