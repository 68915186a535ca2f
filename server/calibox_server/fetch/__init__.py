"""Images that a request names by address: fetched from hosts that the operator allows, and from nowhere else."""
