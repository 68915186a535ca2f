"""What docker/ holds, checked without a container engine."""
