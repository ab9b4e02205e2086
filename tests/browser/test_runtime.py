"""The run-time library in Node and in headless Chromium, with onnxruntime-web and LiteRT.js, against PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hydra_export import bundle, checkpoint
from hydra_export.runtime import Budget
from tests.browser.conftest import PACKAGES, Serve, resigned
from tests.conftest import available_targets

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Floats = NDArray[np.float32]
InRuntime = Callable[
    ..., Any
]  # of a bundle's folder, a JavaScript function of (load, runtime, given), and what is given
needs_tflite = pytest.mark.skipif("tflite" not in available_targets(), reason="hydra-export[tflite] is not installed")
RUNTIMES = ("node", "page", pytest.param("litert", marks=needs_tflite))
GRAPHS = [
    *((runtime, graph) for runtime in ("node", "page") for graph in ("universal", "shared", "separate")),
    *(pytest.param("litert", graph, marks=needs_tflite) for graph in ("universal", "separate")),
]
ORT = "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"
LITERT = "./node_modules/@litertjs/core"
IMPORTS = {"imports": {"@litertjs/wasm-utils": "./node_modules/@litertjs/wasm-utils/dist/index.js"}}
LOADED = {
    "page": f'const ort = await import("{ORT}"); ort.env.logLevel = "error"; const runtime = {{ ort }};',
    "litert": f"""
        const litert = await import("{LITERT}/dist/index.js");
        await litert.loadLiteRt("{LITERT}/wasm/");
        const runtime = {{ litert }};""",
}
PHOTO = np.random.default_rng(0).integers(0, 256, (37, 23, 3), np.uint8)
GIVEN = {"data": PHOTO.ravel().tolist(), "width": PHOTO.shape[1], "height": PHOTO.shape[0]}


def in_node(folder: Path, function: str, given: Any = None) -> Any:
    if not shutil.which("node") or not (PACKAGES / "node_modules").exists():
        pytest.skip("no node, or no onnxruntime-web: `make browser` installs it and runs this")
    program = f"""
        import {{ createRequire }} from "node:module";
        import {{ readFileSync }} from "node:fs";
        import {{ load }} from {json.dumps((folder / "snippets/hydra_runtime.mjs").as_uri())};
        const ort = createRequire({json.dumps(f"{PACKAGES}/")})("onnxruntime-web");
        ort.env.logLevel = "error";
        const loaded = (options) => load({json.dumps(str(folder))}, {{ ...runtime, ...options }});
        const runtime = {{ ort }};
        console.log(JSON.stringify(await ({function})(loaded, JSON.parse(readFileSync(0, "utf8")), runtime)));
    """
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def in_runtime(request: pytest.FixtureRequest, files: Serve, tmp_path: Path) -> Callable[[str], InRuntime]:
    """Of node, page or litert, what runs a JavaScript function of (loaded, given) with a bundle."""

    def page_of(runtime: str) -> InRuntime:
        browser: Browser = request.getfixturevalue("browser")

        def run(folder: Path, function: str, given: Any = None) -> Any:
            program = f"""async (given) => {{
                {LOADED[runtime]}
                const {{ load }} = await import("./bundle/snippets/hydra_runtime.mjs");
                const loaded = (options) => load("bundle/", {{ ...runtime, ...options }});
                return JSON.parse(JSON.stringify(await ({function})(loaded, given, runtime)));
            }}"""
            site = Path(tempfile.mkdtemp(dir=tmp_path))
            (site / "bundle").symlink_to(folder)
            (site / "node_modules").symlink_to(PACKAGES / "node_modules")
            with files(site) as url:
                page = browser.new_page()
                html = f'<script type="importmap">{json.dumps(IMPORTS)}</script>'
                page.route("**/runtime.html", lambda route: route.fulfill(content_type="text/html", body=html))
                page.goto(f"{url}runtime.html")
                try:
                    return page.evaluate(program, given)
                finally:
                    page.close()

        return run

    return lambda runtime: in_node if runtime == "node" else page_of(runtime)


def said_by_pytorch(folder: Path) -> dict[int, Floats]:
    """By head count the logits for PHOTO."""
    model = checkpoint.load(folder.parent / "tiny.safetensors").model
    preprocessing = bundle.read(folder).model.preprocessing
    given = torch.from_numpy(preprocessing.normalise(preprocessing.fit(Image.fromarray(PHOTO))[None]))
    with torch.inference_mode():
        return {k: model(given, k)[0].numpy() for k in (2, 4)}


def shares(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max())
    result: NDArray[np.float64] = exponents / exponents.sum()
    return result


@pytest.mark.parametrize("name", ["tensor", "three", "image"])
@pytest.mark.parametrize(("runtime", "graph"), GRAPHS)
def test_every_head_count_says_what_pytorch_says(
    tiny: dict[str, Path], in_runtime: Callable[[str], InRuntime], runtime: str, graph: str, name: str
) -> None:
    program = """async (loaded, { photo, graph }) => {
        const model = await loaded({ graph });
        const answers = [];
        for (const heads of [4, 2, 4]) {
            const answer = await model.run(photo, { heads });
            answers.push({ ...answer, outputs: [...answer.outputs], top: model.top(answer, 3) });
        }
        return { heads: model.heads, runtime: model.runtime, graphs: [...model.artifacts.values()], answers };
    }"""
    found = in_runtime(runtime)(tiny[name], program, {"photo": GIVEN, "graph": graph})
    assert found["heads"] == [2, 4]
    assert found["runtime"] == ("litert" if runtime == "litert" else "onnxruntime-web")
    assert {each["graph"] for each in found["graphs"]} == {graph}
    expected = said_by_pytorch(tiny[name])
    for answer, k in zip(found["answers"], (4, 2, 4), strict=True):
        np.testing.assert_allclose(answer["outputs"], expected[k], rtol=1e-4, atol=1e-5)
        order = np.argsort(-expected[k])[:3]
        assert (answer["index"], answer["label"]) == (order[0], str(order[0]))
        assert (answer["heads"], answer["tried"]) == (k, [k])
        assert answer["confidence"] == pytest.approx(shares(expected[k]).max(), abs=1e-5)
        assert [each["label"] for each in answer["top"]] == [*map(str, order)]
        assert [each["confidence"] for each in answer["top"]] == pytest.approx(shares(expected[k])[order], abs=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_batch_that_is_chosen_at_run_time_is_of_one_image(
    tiny: dict[str, Path], in_runtime: Callable[[str], InRuntime], runtime: str
) -> None:
    program = """async (loaded, photo) => {
        const model = await loaded({});
        return model.run(photo).then(({ index }) => index, (error) => error.message);
    }"""
    found = in_runtime(runtime)(tiny["dynamic"], program, GIVEN)
    if runtime == "litert":
        assert found.startswith("tflite/tiny-universal.tflite has a dynamic batch, which LiteRT.js does not support.")
    else:
        assert found == said_by_pytorch(tiny["dynamic"])[4].argmax()


@pytest.mark.parametrize(("runtime", "graph"), GRAPHS)
def test_head_counts_are_fixed_or_chosen_by_a_budget_a_cascade_or_both(
    tiny: dict[str, Path], in_runtime: Callable[[str], InRuntime], runtime: str, graph: str
) -> None:
    program = """async (loaded, { photo, graph }) => {
        const model = await loaded({ graph });
        const tried = async () => (await model.run(photo)).tried;
        const found = { untold: await tried(), fixed: await (model.fixed(2), tried()) };
        const references = { 2: 1, 4: 2 };
        found.roomy = await (await model.budget({ ms: 1e6, references }), tried());
        found.tight = await (await model.budget({ ms: 1.5, references }), tried());
        await model.cascade({ heads: [2, 4], thresholds: [1.1] }).budget({ ms: 1.5, references });
        found.tightCascade = await tried();
        found.roomyCascade = await (await model.budget({ ms: 1e6, references }), tried());
        found.unsure = await (await model.budget(null), tried());
        found.sure = await (model.cascade({ heads: [2, 4], thresholds: [0] }), tried());
        found.neither = await (model.cascade(null), tried());
        found.largest = await (model.fixed(), tried());
        found.fixedAgain = await (model.cascade({ heads: [2, 4], thresholds: [1.1] }).fixed(4), tried());
        found.measured = Object.entries(await model.measure());
        found.byMeasuring = await (await model.budget({ ms: 1e6 }), tried());
        return found;
    }"""
    found = in_runtime(runtime)(tiny["tensor"], program, {"photo": GIVEN, "graph": graph})
    measured = found.pop("measured")
    assert [k for k, _ in measured] == ["2", "4"]
    assert all(0 < ms < 1000 for _, ms in measured)
    assert found == {
        "untold": [4],
        "fixed": [2],
        "roomy": [4],
        "tight": [2],
        "tightCascade": [2],
        "roomyCascade": [2, 4],
        "unsure": [2, 4],
        "sure": [2],
        "neither": [2],  # as was fixed
        "largest": [4],
        "fixedAgain": [4],
        "byMeasuring": [4],
    }


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_calls_that_are_made_at_once_wait_for_each_other(
    tiny: dict[str, Path], in_runtime: Callable[[str], InRuntime], runtime: str
) -> None:
    program = """async (loaded, photo) => {
        const model = await loaded({});
        const calls = Array.from({ length: 20 }, (_, at) => model.run(photo, { heads: at % 3 ? 2 : 4 }));
        const refused = model.runFitted(new Uint8Array(1), 2).catch(() => "refused");
        const later = Array.from({ length: 20 }, (_, at) => model.run(photo, { heads: at % 3 ? 4 : 2 }));
        return [await Promise.all([...calls, ...later]), await refused];
    }"""
    answers, refused = in_runtime(runtime)(tiny["tensor"], program, GIVEN)
    expected, wanted = said_by_pytorch(tiny["tensor"]), [*[4, 2, 2] * 6, 4, 2, *[2, 4, 4] * 6, 2, 4]
    assert refused == "refused"
    assert [answer["heads"] for answer in answers] == wanted
    for answer, k in zip(answers, wanted, strict=True):
        np.testing.assert_allclose([*answer["outputs"].values()], expected[k], rtol=1e-4, atol=1e-5)


MADE_UP = """
    let clock = 0;
    let running = 0;
    let slowness = 1;
    globalThis.performance = { now: () => clock };
    class Tensor { constructor(type, data) { this.data = data; } }
    const create = async () => {
        clock += 1000;
        return { inputNames: ["image", "k"], outputNames: ["logits"], run, release() {} };
    };
    const run = async ({ k }) => {
        if (running++) throw new Error("Two runs at once");
        await null;
        clock += slowness * Number(k.data[0]);
        running--;
        return { logits: { data: new Float32Array(7) } };
    };
    const model = await loaded({ ort: { Tensor, InferenceSession: { create } }, graph: "universal" });"""


def test_a_budget_sees_how_long_runs_take_and_not_how_long_files_take(tiny: dict[str, Path]) -> None:
    program = f"""async (loaded, photo) => {{
        {MADE_UP}
        await model.budget({{ ms: 5, references: {{ 2: 2, 4: 4 }} }});
        const tried = [];
        for (slowness of [1, 1, 2, 2, 2, 2]) tried.push((await model.run(photo)).tried[0]);
        slowness = 5;
        for (let call = 0; call < 40; call++) await model.run(photo, {{ heads: 4 }}); // which the budget did not choose
        slowness = 1;
        for (let call = 0; call < 40; call++) tried.push((await model.run(photo)).tried[0]);
        return tried;
    }}"""
    tried = in_node(tiny["tensor"], program, GIVEN)
    rule = Budget({2: 2.0, 4: 4.0}, 5.0)
    for slowness, heads in zip([1, 1, 2, 2, 2, 2, *[1] * 40], tried, strict=True):
        assert rule.plan() == (heads,)
        rule.saw([(heads, slowness * heads)])
    assert tried[:2] == [4, 4]
    assert 2 in tried[2:]


def test_a_budget_that_cannot_be_is_refused_before_anything_is_measured(tiny: dict[str, Path]) -> None:
    program = f"""async (loaded) => {{
        {MADE_UP}
        const refused = await model.budget({{ ms: -1 }}).catch((error) => error.message);
        return [refused, clock];
    }}"""
    refused, spent = in_node(tiny["tensor"], program)
    assert refused.startswith("A budget of -1 ms is invalid.")
    assert spent == 0


def test_no_run_begins_before_the_last_one_has_ended(tiny: dict[str, Path]) -> None:
    program = f"""async (loaded, photo) => {{
        {MADE_UP}
        const calls = Array.from({{ length: 5 }}, () => model.run(photo));
        const others = [model.measure(), model.check(), model.release(), model.run(photo)];
        const [first, measured, last] = await Promise.all([calls[0], others[0], others[3], ...calls, ...others]);
        return [first.ms, measured, last.heads];
    }}"""
    first, measured, last = in_node(tiny["tensor"], program, GIVEN)
    assert first == 1000 + 4  # the whole call, opening the file included
    assert measured == {"2": 2, "4": 4}
    assert last == 4


@pytest.mark.parametrize("name", ["tensor", "image"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_artifacts_are_checked_against_the_golden_data(
    tiny: dict[str, Path], in_runtime: Callable[[str], InRuntime], tmp_path: Path, runtime: str, name: str
) -> None:
    program = """async (loaded) => {
        const model = await loaded({});
        return [await model.check(), await model.check({ heads: 4 }), await model.check({ heads: [4, 2] })];
    }"""
    every, one, two = in_runtime(runtime)(tiny[name], program)
    assert [each["heads"] for each in every] == [2, 4]
    assert (one, two) == ([every[1]], every[::-1])
    assert all(each["passed"] and each["error"] <= each["allowed"] < 1e-3 for each in every)
    copy = Path(shutil.copytree(tiny[name], tmp_path / "copy"))
    with np.load(copy / bundle.GOLDEN) as arrays:
        changed = {each: arrays[each] for each in arrays}
        for each in (name for name in changed if "logits" in name):
            changed[each][0] = changed[each][0, ::-1]  # of the first image alone
        np.savez(copy / bundle.GOLDEN, **changed)
    resigned(copy)
    for each in in_runtime(runtime)(copy, program)[0]:
        assert not each["passed"]
        assert each["error"] > each["allowed"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_was_released_is_loaded_again_when_it_runs(
    tiny: dict[str, Path], in_runtime: Callable[[str], InRuntime], runtime: str
) -> None:
    program = """async (loaded, photo) => {
        const model = await loaded({});
        const before = await model.run(photo);
        const kept = [...model.bundle.fetched.keys()];
        await model.release();
        const after = await model.run(photo);
        await model.release();
        return { same: String(before.outputs) === String(after.outputs), kept };
    }"""
    assert in_runtime(runtime)(tiny["tensor"], program, GIVEN) == {"same": True, "kept": []}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("changed", ["manifest.json", "universal"])
def test_a_file_that_is_not_the_listed_one_is_refused(
    tiny: dict[str, Path], in_runtime: Callable[[str], InRuntime], tmp_path: Path, runtime: str, changed: str
) -> None:
    copy = Path(shutil.copytree(tiny["three"], tmp_path / "copy"))
    weights = "tflite/tiny-universal.tflite" if runtime == "litert" else "onnx/tiny-universal.bin"
    file = copy / (weights if changed == "universal" else changed)
    content = bytearray(file.read_bytes())
    content[content.index(b"tiny") if changed == "manifest.json" else 100] ^= 1
    file.write_bytes(content)
    program = """async (loaded, photo) => {
        try {
            await (await loaded({})).run(photo);
        } catch (error) {
            return error.message;
        }
    }"""
    said = {
        "manifest.json": "manifest.json is not the file that SHA256SUMS lists. Copy or export the bundle again.",
        "universal": f"{weights} does not match the manifest.",
    }
    assert in_runtime(runtime)(copy, program, GIVEN) == said[changed]


def test_hashes_are_checked_where_a_page_of_plain_http_has_no_digests(tiny: dict[str, Path], tmp_path: Path) -> None:
    program = """async (loaded, photo) => {
        Object.defineProperty(globalThis, "crypto", { value: {} });
        try {
            return (await (await loaded({})).run(photo)).heads;
        } catch (error) {
            return error.message;
        }
    }"""
    assert in_node(tiny["three"], program, GIVEN) == 4
    copy = Path(shutil.copytree(tiny["three"], tmp_path / "copy"))
    weights = copy / "onnx/tiny-universal.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert in_node(copy, program, GIVEN) == "onnx/tiny-universal.bin does not match the manifest."


def test_confidence_and_cascades_are_those_of_the_calibration(tiny: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny["tensor"], tmp_path / "copy"))
    (tmp_path / "tiny.safetensors").symlink_to(tiny["tensor"].parent / "tiny.safetensors")
    expected = said_by_pytorch(copy)
    calibration = {
        "subnetworks": [{"heads": 2, "temperature": 0.5}, {"heads": 4, "temperature": 2.0}],
        "cascades": [
            {"as_good_as": 4, "heads": [2, 3, 4], "thresholds": [0.0, 0.0]},  # of which one is not here
            {"as_good_as": 4, "heads": [2, 4], "thresholds": [shares(expected[2], 0.5).max() - 1e-4]},
            {"as_good_as": 2, "heads": [2], "thresholds": []},
        ],
    }

    def with_calibration(text: str) -> str:
        return json.dumps({**json.loads(text), "calibration": calibration})

    resigned(copy, with_calibration)
    program = """async (loaded, photo) => {
        const model = await loaded({});
        const answers = [await model.run(photo, { heads: 2 }), await model.run(photo)];
        const tried = [];
        for (const asGoodAs of [4, 2]) tried.push((await model.cascade({ asGoodAs }).run(photo)).tried);
        let refused;
        try { model.cascade({ asGoodAs: 3 }); } catch (error) { refused = error.message; }
        return { confidence: answers.map((each) => each.confidence), top: model.top(answers[1], 2), tried, refused };
    }"""
    found = in_node(copy, program, GIVEN)
    calibrated = {2: shares(expected[2], 0.5), 4: shares(expected[4], 2.0)}
    assert found["confidence"] == pytest.approx([calibrated[2].max(), calibrated[4].max()], abs=1e-5)
    assert [each["confidence"] for each in found["top"]] == pytest.approx(np.sort(calibrated[4])[:-3:-1], abs=1e-5)
    assert found["tried"] == [[2], [2]]
    assert found["refused"] == "The bundle has no cascade as good as k = 3. It has some for 4, 4, 2."


def test_a_model_without_classes_says_no_label(tiny: dict[str, Path]) -> None:
    program = """async (loaded, photo) => {
        const model = await loaded({ precision: "fp32" });
        const { label, index, confidence, outputs, heads } = await model.run(photo);
        const cascade = (await model.cascade({ heads: [2, 4], thresholds: [0.1] }).run(photo)).tried;
        return { label, index, confidence, num: outputs.length, heads, cascade };
    }"""
    found = in_node(tiny["tokens"], program, GIVEN)
    assert found == {"label": "", "index": None, "confidence": None, "num": 24 * 32, "heads": 4, "cascade": [2, 4]}


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, ["onnx/tiny-universal.onnx"] * 2),
        ({"graph": "fixed"}, ["onnx/tiny-universal-k2.onnx", "onnx/tiny-universal-k4.onnx"]),
        ({"graph": "separate", "precision": "int8"}, ["onnx/tiny-k2-int8.onnx", "onnx/tiny-k4-int8.onnx"]),
        ({"heads": 2}, ["onnx/tiny-universal.onnx"]),
        ({"artifact": "onnx/tiny-shared-k4.onnx"}, ["onnx/tiny-shared-k4.onnx"]),
        ({"heads": [4, 2], "precision": "fp16"}, ["onnx/tiny-universal-fp16.onnx"] * 2),
    ],
)
def test_artifacts_are_chosen_by_what_is_asked_for(tiny: dict[str, Path], options: Any, paths: list[str]) -> None:
    program = "async (loaded, options) => [...(await loaded(options)).artifacts.values()].map((each) => each.path)"
    assert in_node(tiny["tensor"], program, options) == paths


@needs_tflite
@pytest.mark.parametrize(("accelerator", "graph"), [("wasm", "universal"), ("webgpu", "separate")])
def test_tflite_is_chosen_by_what_its_accelerator_compiles(tiny: dict[str, Path], accelerator: str, graph: str) -> None:
    program = """async (loaded, accelerator) => {
        const model = await loaded({ ort: undefined, litert: {}, accelerator });
        return [...model.artifacts.values()].map(({ target, graph }) => [target, graph]);
    }"""
    assert in_node(tiny["tensor"], program, accelerator) == [["tflite", graph]] * 2


@needs_tflite
@pytest.mark.parametrize(
    "compiled",
    ['({ options: { accelerator: "wasm" }, delete() { deleted += 1; } })', '{ deleted += 1; throw new Error("IF"); }'],
)
def test_litert_that_would_run_on_something_else_is_refused(tiny: dict[str, Path], compiled: str) -> None:
    program = f"""async (loaded, photo) => {{
        let deleted = 0;
        const litert = {{ loadAndCompile: async () => {compiled} }};
        const model = await loaded({{ ort: undefined, litert, accelerator: "webgpu", graph: "universal" }});
        return [await model.run(photo).catch((error) => error.message), deleted];
    }}"""
    remedy = 'Load separate artifacts, or with accelerator "wasm".'
    said = [f"tflite/tiny-universal.tflite does not run on webgpu here. {remedy}", 1]
    assert in_node(tiny["tensor"], program, GIVEN) == said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("loaded({ heads: 3 })", "The bundle has no artifacts for k = 3. It has onnx/tiny-k2.onnx (k = 2), "),
        ("loaded({ target: 'tflite', graph: 'shared' })", "The bundle has no artifacts for tflite, shared."),
        ("loaded({ ort: undefined })", "Pass ort, the module of onnxruntime-web or -node, or litert, the module of"),
        ("loaded({ ort: undefined, target: 'onnx' })", "None of the runtimes passed runs these artifacts. Pass ort,"),
        ("model.run(photo, { heads: 3 })", "There is no head count 3 here. Choose from 2, 4."),
        ("model.runFitted(new Uint8Array(768), 5)", "There is no head count 5 here."),
        ("model.fixed(0)", "There is no head count 0 here."),
        ("model.check({ heads: [2, 3] })", "There is no head count 3 here."),
        ("model.cascade({ asGoodAs: 4 })", "This bundle is not calibrated"),
        ("model.cascade({ heads: [2, 3], thresholds: [0.5] })", "There is no head count 3 here."),
        ("model.budget({ ms: -1 })", "A budget of -1 ms is invalid."),
        ("model.budget({ ms: 33, quantile: 2 })", "The quantile is 2."),
        ("model.budget({ ms: 33, references: { 3: 1 } })", "There is no head count 3 here."),
        ("model.run({ ...photo, width: 7 })", "An image of 7 x 37 pixels has 2553 bytes. Pass 3 or 4 for each pixel."),
        ("model.bundle.fetch('../secret')", "The manifest does not list ../secret."),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_why(tiny: dict[str, Path], wrong: str, said: str) -> None:
    program = f"""async (loaded, photo) => {{
        const model = await loaded({{}});
        try {{
            await ({wrong});
        }} catch (error) {{
            return [error.message, (await model.run(photo)).tried];
        }}
    }}"""
    message, tried = in_node(tiny["tensor"], program, GIVEN)
    assert said in message
    assert tried == [4]  # what was set before is still so
