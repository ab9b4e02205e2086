"""What bundles say of ONNX artifacts, and the programs that run them."""

from hydra_export.target import Card, Program

CARD = Card(
    imports="import numpy as np\nimport onnxruntime as ort",
    code=(
        'session = ort.InferenceSession("{path}")\n'
        '({output},) = session.run(["{output}"], {{"image": {image}{chosen}}})'
    ),
    choice=(
        "a session that takes `k` keeps the packed weights of every head count; graphs of one head count, "
        "`...-universal-k3.onnx`, keep only their own"
    ),
    python="onnxruntime",
    javascript="onnxruntime-web or onnxruntime-node",
    programs=(
        Program(
            name="run.mjs",
            called="`node snippets/run.mjs --heads {k}`; needs onnxruntime-node or onnxruntime-web where it is called",
        ),
        Program(
            name="run.cpp",
            called=(
                "C++ with onnxruntime, and with nothing but the standard library `preprocess.hpp` and `budget.hpp`, "
                "which keeps a deadline call by call"
            ),
            row="    {{{path}, {heads}, {takes_heads}, {pixels}, {batch}, {best}, {value}}},",
        ),
        Program(name="preprocess.hpp"),
        Program(name="budget.hpp"),
    ),
)
