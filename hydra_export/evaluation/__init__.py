"""What a model is worth, in PyTorch: the accuracy of each subnetwork on labelled images, and what it costs."""
