"""Parts of a detector and their assembly."""
