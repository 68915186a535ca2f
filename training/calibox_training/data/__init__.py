"""COCO-format data and its augmentation."""
