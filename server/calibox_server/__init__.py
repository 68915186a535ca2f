"""Serves bundles over HTTP: fast, bounded, and with three scores per detection."""
