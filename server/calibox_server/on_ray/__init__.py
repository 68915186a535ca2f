"""Ray: `application` serves bundles on a Ray cluster with Ray Serve, `detecting` looks at large sets with Ray Data."""
