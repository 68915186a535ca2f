"""`python -m calibox_training.reproduce`, the same as `calibox reproduce`."""

import typer

from calibox_training.reproduce.commands import reproduce

if __name__ == "__main__":
    typer.run(reproduce)
