"""IoU-Net's own figures and tables, reproduced at a small scale: `calibox reproduce iou-net`."""
