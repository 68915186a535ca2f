"""Everything that a GPU must be asked, in one go, on a machine that has no more than torch, torchvision and nvcc."""
