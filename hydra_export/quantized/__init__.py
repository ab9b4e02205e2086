"""Integer activations: what each tensor of a subnetwork ranges over, and the integers that count it."""
