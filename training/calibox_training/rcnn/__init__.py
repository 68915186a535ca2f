"""Two-stage detectors (Faster, Mask and Cascade R-CNN), with IoU-Net's branch trained jointly or without it."""
