"""`calibox verify --chain`: answers held against one another from PyTorch to HTTP."""
