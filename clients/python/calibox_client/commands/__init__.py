"""The client's subcommands of `calibox`; each module loads typer and nothing heavy when it is imported."""
