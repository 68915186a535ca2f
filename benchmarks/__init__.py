"""Measurements of calibox against what it stands beside."""
