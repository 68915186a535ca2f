"""How a detector is made: data, models, assigners, losses, recipes (torch, torchvision, Lightning)."""
