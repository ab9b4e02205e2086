"""Training a universal model: a recipe gives a TrainConfig, a run follows it into a folder."""
