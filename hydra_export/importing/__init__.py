"""Checkpoints from elsewhere: where they are stored, what they contain, and what their metadata states."""
