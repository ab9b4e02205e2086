"""From a dense ViT to one whose first heads, channels and hidden units matter most: its function is kept exactly."""
