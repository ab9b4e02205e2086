"""What bundles say of TFLite artifacts, and the programs that run them."""

from hydra_export.target import Card, Program

CARD = Card(
    imports="import math\n\nimport numpy as np\nfrom ai_edge_litert.compiled_model import CompiledModel",
    code=(
        'model, signature = CompiledModel.from_file("{path}"), {function}\n'
        'given = model.create_input_buffer_by_name(signature, "image")\n'
        'made = model.create_output_buffer_by_name(signature, "{output}")\n'
        "given.write({image})\n"
        'model.run_by_name(signature, {{"image": given}}, {{"{output}": made}})\n'
        'shape = made.get_tensor_details()["shape"]\n'
        "{output} = made.read(math.prod(shape), np.float32).reshape(shape)"
    ),
    image={"tensor": ".transpose(0, 2, 3, 1)"},
    choice=(
        "signatures `k3`, ... fix the head count, `run` takes it as `k`, int32 [1]; a loaded file keeps the packed "
        "weights of every head count, unless CompiledModel opens it with `xnnpack_weight_cache_path`"
    ),
    python="ai-edge-litert",
    javascript="@litertjs/core, in a browser",
    programs=(
        Program(
            name="Run.kt",
            called=(
                "Kotlin with LiteRT, for Android, with `Preprocess.kt` and `Budget.kt`, which keeps a deadline call by "
                "call; run by us on a JVM, on no phone"
            ),
            row="    Artifact({path}, {heads}, {function}, {pixels}, {batch}, {outputs}, {best}, {value}),",
        ),
        Program(name="Preprocess.kt"),
        Program(name="Budget.kt"),
    ),
    only_function='"serving_default"',
)
