"""COCO evaluation of a live server, by stage: work, journal, running, metrics, report."""
