"""LED: how well a detection is localized, as three overlaps with its object, estimated coarse to fine."""
