"""What bundles say of TFLite artifacts, and the programs that run them."""

from hydra_export.target import Card, Program

CARD = Card(
    imports="import numpy as np\nfrom ai_edge_litert.interpreter import Interpreter",
    code='run = Interpreter("{path}").get_signature_runner({function})\n{output} = run(image={image})["{output}"]',
    image={"tensor": ".transpose(0, 2, 3, 1)"},
    choice=(
        "signatures `k3`, ... fix the head count, `run` takes it as `k`, int32 [1]; a loaded file holds the packed "
        "weights of every head count, unless CompiledModel opens it with `xnnpack_weight_cache_path`"
    ),
    python="ai-edge-litert",
    javascript="@litertjs/core, in a browser",
    programs=(
        Program(
            name="Run.kt",
            called=(
                "Kotlin with LiteRT, for Android, with `Preprocess.kt` and `Budget.kt`, which keeps a deadline call by "
                "call; compiled but not run on a phone by us"
            ),
            row="    Artifact({path}, {heads}, {function}, {pixels}, {batch}, {outputs}, {best}, {value}),",
        ),
        Program(name="Preprocess.kt"),
        Program(name="Budget.kt"),
    ),
    only_function='"serving_default"',
)
