"""What bundles say of Core AI artifacts."""

from hydra_export.target import Card

CARD = Card()
