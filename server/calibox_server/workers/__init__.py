"""`calibox serve --http-workers N`: a supervisor, one process that runs the models, and N that speak HTTP.

The supervisor (`supervisor`) listens and deals connections out, the front ends (`front`) do all that needs no model,
and the engine process (`engine`) does the rest. Pixels and rows lie in memory that a front end shares with the engine
process (`slab`); small fixed messages (`messages`) over a socket between the two (`channel`) say what lies where.
"""
