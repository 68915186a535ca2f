"""Engines from a bundle, for the runtimes of one machine, each measured before it is kept."""
