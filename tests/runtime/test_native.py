"""C++ and Kotlin choose what the traces say; Swift is compiled nowhere here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from hydra_export.runtime import surest

HERE = Path(__file__).parent
TRACES: dict[str, Any] = json.loads((HERE / "traces.json").read_text(encoding="utf-8"))
LANGUAGES = ["cpp", pytest.param("kotlin", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=LANGUAGES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a program that follows orders, in one of the languages."""
    place = tmp_path_factory.mktemp(request.param)
    snippets = Path(str(resources.files("hydra_export.data"))) / "snippets"
    return cpp(snippets, place) if request.param == "cpp" else kotlin(snippets, place)


def cpp(snippets: Path, place: Path) -> list[str]:
    if not shutil.which("g++"):
        pytest.skip("no g++")
    strict = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-I", str(snippets)]
    subprocess.run(["g++", *strict, str(HERE / "native.cpp"), "-o", str(place / "native")], check=True)
    return [str(place / "native")]


def kotlin(snippets: Path, place: Path) -> list[str]:
    compiler = os.environ.get("HYDRA_EXPORT_KOTLINC")
    if not compiler or not shutil.which("java"):
        pytest.skip("no java, or no HYDRA_EXPORT_KOTLINC: the path of kotlinc")
    sources = [str(snippets / "Budget.kt"), str(HERE / "Native.kt")]
    jar = str(place / "native.jar")
    subprocess.run([compiler, "-Werror", *sources, "-include-runtime", "-d", jar], check=True)
    return ["java", "-cp", jar, "NativeKt"]


def said(program: list[str], orders: Iterable[str]) -> list[list[str]]:
    """What the program writes, line by line and word by word."""
    done = subprocess.run(program, input="\n".join(orders), capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def counted(values: Iterable[float]) -> str:
    listed = list(values)
    return " ".join([str(len(listed)), *map(repr, listed)])


def budget(ms: float, quantile: float, references: dict[int, float], cascade: Iterable[int] = ()) -> str:
    return f"budget {ms!r} {quantile!r} {counted(references)} {counted(references.values())} {counted(cascade)}"


def answer(heads: int, temperature: float, logits: list[float]) -> str:
    return f"answer {heads} {temperature!r} {counted(logits)}"


@pytest.mark.parametrize("trace", TRACES["budgets"], ids=lambda trace: trace["name"])
def test_a_budget_chooses_call_by_call_what_was_recorded(program: list[str], trace: dict[str, Any]) -> None:
    def orders() -> Iterator[str]:
        references = {int(k): ms for k, ms in trace["references"].items()}
        yield budget(trace["ms"], trace["quantile"], references, trace["cascade"])
        for call in trace["calls"]:
            heads, times = zip(*call["runs"], strict=True)
            yield "plan"
            yield f"saw {call['other_ms']!r} {counted(heads)} {counted(times)}"

    assert said(program, orders()) == [[str(k) for k in call["plan"]] for call in trace["calls"]]


@pytest.mark.parametrize("trace", TRACES["cascades"], ids=lambda trace: trace["name"])
def test_a_cascade_stops_at_each_image_where_it_did_when_recorded(program: list[str], trace: dict[str, Any]) -> None:
    asked = [trace["heads"][: trace["heads"].index(image["heads"]) + 1] for image in trace["images"]]

    def orders() -> Iterator[str]:
        yield f"cascade {counted(trace['heads'])} {counted(trace['thresholds'])}"
        for heads, image in zip(asked, trace["images"], strict=True):
            for k, temperature, logits in zip(heads, trace["temperatures"], image["logits"], strict=False):
                yield answer(k, temperature, logits)

    answers = iter(said(program, orders()))
    for heads, image in zip(asked, trace["images"], strict=True):
        *sent_on, last = [next(answers) for _ in heads]
        assert [accepted for _, _, accepted in sent_on] == ["0"] * len(sent_on)
        assert (int(last[0]), last[2]) == (image["index"], "1")
        assert float(last[1]) == pytest.approx(image["probability"], rel=1e-11)  # recorded with 12 digits
    assert next(answers, None) is None


@pytest.mark.parametrize("logits", [[-0.0, 0.0], [0.0, -0.0], [float(i % 7) for i in range(1000)]])
def test_the_surest_class_is_that_of_python(program: list[str], logits: list[float]) -> None:
    ((index, probability, _),) = said(program, ["cascade 1 1 0", answer(1, 0.7, logits)])
    expected_index, expected_probability = surest(logits, 0.7)
    assert int(index) == expected_index
    assert float(probability) == pytest.approx(expected_probability, rel=1e-12)  # numpy adds in another order


def test_what_python_refuses_is_refused(program: list[str]) -> None:
    orders = [
        budget(33.0, 0.95, {}),
        budget(33.0, 0.95, {3: 0.0}),
        budget(0.0, 0.95, {3: 5.0}),
        budget(33.0, 1.0, {3: 5.0}),
        budget(33.0, 0.4, {3: 5.0}),
        "cascade 0 0",
        f"cascade {counted([3, 6])} 0",
        f"cascade {counted([3])} {counted([0.5])}",
        f"cascade {counted([3, 3])} {counted([0.5])}",
        f"cascade {counted([6, 3])} {counted([0.5])}",
    ]
    assert said(program, [budget(33.0, 0.5, {3: 5.0}), "cascade 1 3 0"]) == []
    assert said(program, orders) == [["refused"]] * len(orders)
