"""What bundles say of Core ML artifacts, and the programs that run them."""

from hydra_export.target import Card, Program

# Core ML's own runtime is on Apple's systems alone; our evaluator runs anywhere.
CARD = Card(
    imports="from pathlib import Path\n\nimport numpy as np\n\nfrom hydra_export import mil",
    code='package = mil.load(Path("{path}"))\n{output} = package.run({{"image": {image}}}{last})["{output}"]',
    image={"image": ".transpose(0, 3, 1, 2)"},
    choice=(
        "functions `k3`, ... are the head counts, the default is the largest; experimental: verified as a file, "
        "function by function, but not run on Apple hardware"
    ),
    programs=(
        Program(
            name="run.swift",
            called=(
                "Swift with Core ML, for iOS and macOS, with `preprocess.swift` and `budget.swift`, which keeps a "
                "deadline call by call; neither compiled nor run by us"
            ),
            row=(
                "    Artifact(path: {path}, heads: {heads}, function: {function}, pixels: {pixels}, batch: {batch}, "
                "best: {best}, value: {value}),"
            ),
        ),
        Program(name="preprocess.swift"),
        Program(name="budget.swift"),
    ),
    only_function="nil",
)
