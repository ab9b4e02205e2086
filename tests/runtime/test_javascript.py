"""JavaScript's rules give the traces of Python's, in Node without any package."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

TRACES = json.loads((Path(__file__).parent / "traces.json").read_text(encoding="utf-8"))
SNIPPETS = Path(str(resources.files("hydra_export.data"))) / "snippets"
PLANS = """
    ({ references, ms, quantile, cascade, calls }) => {
        const rule = new Budget(references, ms, quantile);
        return calls.map(({ runs, other_ms }) => {
            const plan = rule.plan(cascade);
            rule.saw(runs, other_ms);
            return plan;
        });
    }"""
DECISIONS = """
    ({ heads, thresholds, temperatures, images }) => images.map(({ logits }) => {
        const rule = new Cascade(heads, thresholds);
        for (const [at, k] of heads.entries()) {
            const { index, probability } = surest(logits[at], temperatures[at]);
            if (rule.accepts(k, probability)) return { heads: k, index, probability };
        }
    })"""


def in_node(function: str, given: Any, module: str = "hydra_runtime.mjs") -> Any:
    """What a JavaScript *function* makes of *given*, with all that *module* exports at hand."""
    if not shutil.which("node"):
        pytest.skip("no node")
    program = f"""
        import {{ readFileSync }} from "node:fs";
        import * as library from {json.dumps((SNIPPETS / module).as_uri())};
        const names = Object.keys(library);
        const make = new Function(...names, "return " + {json.dumps(function.strip())});
        const result = make(...names.map((name) => library[name]))(JSON.parse(readFileSync(0, "utf8")));
        console.log(JSON.stringify(result));
    """
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_budget_plans_as_in_python() -> None:
    plans = in_node(f"(traces) => traces.map({PLANS})", TRACES["budgets"])
    for trace, found in zip(TRACES["budgets"], plans, strict=True):
        assert found == [call["plan"] for call in trace["calls"]], trace["name"]


def test_every_cascade_decides_as_in_python() -> None:
    decisions = in_node(f"(traces) => traces.map({DECISIONS})", TRACES["cascades"])
    for trace, found in zip(TRACES["cascades"], decisions, strict=True):
        wanted = [{name: image[name] for name in ("heads", "index")} for image in trace["images"]]
        assert [{name: each[name] for name in ("heads", "index")} for each in found] == wanted, trace["name"]
        probabilities = [each["probability"] for each in found]
        assert probabilities == pytest.approx([image["probability"] for image in trace["images"]], rel=0, abs=1e-9)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("new Budget({}, 33)", "Pass a time above 0 for each head count."),
        ("new Budget({ 3: 0 }, 33)", 'References of {"3":0} ms are invalid'),
        ("new Budget({ 3: 1 }, 0)", "A budget of 0 ms is invalid"),
        ("new Budget({ 3: 1 }, NaN)", "A budget of NaN ms is invalid"),
        ("new Budget({ 3: 1 }, 33, 1)", "The quantile is 1."),
        ("new Budget({ 3: 1 }, 33, 0.4)", "The quantile is 0.4."),
        ("new Cascade([], [])", "No cascade has heads []"),
        ("new Cascade([6, 3], [0.5])", "Pass ascending head counts"),
        ("new Cascade([3, 3], [0.5])", "Pass ascending head counts"),
        ("new Cascade([3, 6], [])", "a threshold for each but the last"),
    ],
)
def test_what_no_rule_can_keep_is_refused(made: str, said: str) -> None:
    refusal = in_node(f"() => {{ try {{ {made}; }} catch (error) {{ return error.message; }} }}", None)
    assert said in refusal


def test_a_budget_says_its_head_count_and_takes_references_in_any_order() -> None:
    assert in_node("() => new Budget({ 12: 52, 3: 5, 6: 15 }, 33).heads", None) == 6
    assert in_node("() => new Budget({ 12: 52, 3: 5, 6: 15 }, 1).heads", None) == 3


def test_a_budget_starts_with_room_to_spare() -> None:
    assert in_node("() => [16, 17].map((ms) => new Budget({ 3: 5, 6: 15 }, ms).heads)", None) == [3, 6]


def test_an_answer_that_is_as_sure_as_its_threshold_counts() -> None:
    assert in_node("() => [0.49, 0.5].map((each) => new Cascade([3, 6], [0.5]).accepts(3, each))", None) == [
        False,
        True,
    ]


@pytest.mark.parametrize("num_bytes", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000])
def test_a_page_without_the_browsers_sha256_hashes_alike(num_bytes: int) -> None:
    data = bytes(each * 37 % 256 for each in range(num_bytes))
    digest = in_node("(data) => [...digest(Uint8Array.from(data))]", [*data], "sha256.mjs")
    assert bytes(digest) == hashlib.sha256(data).digest()
