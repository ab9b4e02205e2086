"""``python -m hydra_export`` is ``hydra-export``."""

from hydra_export.cli import run

if __name__ == "__main__":
    run()
