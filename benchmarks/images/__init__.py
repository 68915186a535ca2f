"""Images that were built without a container engine, started and asked: python -m benchmarks.images."""
