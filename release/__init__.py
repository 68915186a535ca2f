"""What a release must be: checks of the checkout, bills of material, and the wheel tried where nothing else is."""
