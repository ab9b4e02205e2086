"""The report: every number is the manifest's, nothing is loaded from elsewhere, and no text becomes code."""

from __future__ import annotations

import base64
import hashlib
import html
import html.parser
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hydra_export import bundle, checkpoint, checkpoint_file, network, report
from hydra_export.architecture import HydraConfig
from hydra_export.bench import bench
from hydra_export.cli import main
from hydra_export.data import packaged_images
from hydra_export.exporting import export, jobs
from hydra_export.report import scale, summary, words
from hydra_export.report.markup import linked, tag
from hydra_export.text import shown
from tests.conftest import perturbed

_VOID = {"meta", "link", "br"}
HEADS = (3, 6)


class Page(html.parser.HTMLParser):
    """What is in a page; refuses elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        assert len({key for key, _ in attributes}) == len(attributes)
        self.ids += [value for key, value in attributes if key == "id" and value is not None]
        if name not in _VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.elements if each == name]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model: accuracies, labels and int8."""
    folder = tmp_path_factory.mktemp("packaged") / "bundle"
    packaged = checkpoint.load()
    images = packaged_images(packaged.info.preprocessing, 200)
    listed = jobs(["onnx"], ["separate", "universal"], ["fp32", "int8"])
    export(packaged, folder, listed, heads=HEADS, images=images)
    return folder


@pytest.fixture(scope="module")
def times(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real measurement of it."""
    import msgspec

    path = tmp_path_factory.mktemp("times") / "bench.json"
    path.write_bytes(msgspec.json.encode(bench(packaged, runs=5)))
    return path


@pytest.fixture
def nobody(tmp_path: Path) -> Path:
    """The profiles of a user who has none."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    return folder


def edited(folder: Path, out: Path, edit: Callable[[Any], object]) -> Path:
    """A bundle whose manifest says something else."""
    copy = Path(shutil.copytree(folder, out))
    manifest = json.loads((copy / "manifest.json").read_bytes())
    edit(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def page(folder: Path, profiles: Path, **others: Any) -> Page:
    return Page(report.page(report.gather(folder, profile_folder=profiles, **others)))


def cells(shown: Page) -> set[str]:
    return {text.strip() for text in shown.texts}


# The page


def test_every_number_of_the_manifest_is_on_the_page(packaged: Path, nobody: Path) -> None:
    manifest, shown = bundle.read(packaged), page(packaged, nobody)
    found = cells(shown)
    for entry in manifest.model.subnetworks:
        assert entry.accuracy is not None
        assert {f"k = {entry.heads}", f"{entry.params:,}", f"{entry.gmacs:.4g}", f"{entry.accuracy:.2f} %"} <= found
    sizes = {file.path: file.bytes for file in manifest.files}
    for artifact in manifest.artifacts:
        assert {artifact.path, artifact.sha256, words.size(sum(sizes[path] for path in artifact.files))} <= found
        for record in artifact.parity.values():
            assert f"{record.max_abs_error:.1e}" in found
            assert f"{record.cosine:.6f}" in found
            if record.bound is None:
                assert record.accuracy is not None
                assert record.accuracy_fp32 is not None
                assert words.points(record.accuracy - record.accuracy_fp32) in found
            else:
                assert {f"{record.bound:.1e}", words.share(record.max_abs_error / record.bound)} <= found
    assert {manifest.model.name, manifest.model.license, manifest.model.checkpoint_sha256} <= found
    assert manifest.images in shown.text
    for name, version in manifest.tool.items():
        assert f"{name} {version}" in shown.text


def test_one_chart_has_the_smallest_download_of_each_format_precision_and_head_count(
    packaged: Path, nobody: Path
) -> None:
    text = report.page(report.gather(packaged, profile_folder=nobody))
    size = re.search(r'<svg[^>]*aria-labelledby="size-title.*?</svg>', text)
    assert size is not None
    manifest = bundle.read(packaged)
    separate = [artifact for artifact in manifest.artifacts if artifact.graph == "separate"]  # the others weigh more
    sizes = {f"{a.target} separate, {a.precision}, k = {k}: {words.size(a.bytes)}" for a in separate for k in a.heads}
    assert {title.rpartition(", ")[0] for title in re.findall("<g><title>(.*?)</title>", size[0])} == sizes
    shown = Page(text)
    for svg in shown.named("svg"):
        if svg.get("aria-hidden") != "true":
            named = str(svg["aria-labelledby"]).split()
            assert svg["role"] == "img"
            assert set(named) <= set(shown.ids)


def test_int8_lies_where_its_own_accuracy_is(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    def worse(manifest: Any) -> None:
        for artifact in manifest["artifacts"]:
            for record in artifact["parity"].values():
                if record["bound"] is None:
                    record["accuracy"] = record["accuracy_fp32"] - 0.75

    copy = edited(packaged, tmp_path / "copy", worse)
    text = report.page(report.gather(copy, profile_folder=nobody))
    for entry in bundle.read(copy).model.subnetworks:
        assert entry.accuracy is not None
        size = words.size((copy / f"onnx/hydravit-fashion-mnist-k{entry.heads}-int8.onnx").stat().st_size)
        told = f"onnx separate, int8, k = {entry.heads}: {size}, {words.accuracy(entry.accuracy - 0.75)}"
        assert f"<title>{told}</title>" in text


def test_the_page_is_well_formed_and_its_links_lead_somewhere(packaged: Path, nobody: Path, times: Path) -> None:
    shown = page(packaged, nobody, bench_files=[times], devices=["pixel7"], against=packaged)
    assert len(set(shown.ids)) == len(shown.ids)
    for link in shown.named("a"):
        where = str(link["href"])
        assert where.startswith("https://") or where[1:] in shown.ids
    for _, attributes in shown.elements:
        for each in ("aria-labelledby", "aria-describedby"):
            assert set(str(attributes.get(each) or "").split()) <= set(shown.ids)
    levels = [int(name[1]) for name, _ in shown.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_page_loads_nothing_and_runs_nothing(packaged: Path, nobody: Path, times: Path) -> None:
    text = report.page(report.gather(packaged, profile_folder=nobody, bench_files=[times], devices=["rpi5"]))
    shown = Page(text)
    policy = next(m["content"] for m in shown.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    names = {name for name, _ in shown.elements}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base", "image", "use", "video", "audio"}
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    for name, attributes in shown.elements:
        assert not {key for key in attributes if key.startswith("on") or key in ("style", "src", "srcset", "action")}
        if "href" in attributes and name != "a":
            assert (name, attributes["href"]) == ("link", "data:,")


_EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u202e"


def _poison(manifest: Any) -> None:
    model = manifest["model"]
    model.update(name=_EVIL, license=_EVIL, labels=[_EVIL] * 10, accuracy_data=_EVIL, checkpoint_sha256=_EVIL)
    manifest.update(tool={"hydra-export": _EVIL, _EVIL: "1"}, images=_EVIL)
    renamed = {}
    for entry in [*manifest["files"], *manifest["artifacts"]]:
        renamed[entry["path"]] = entry["path"] + re.sub(r'[/\\:*?"<>|]', "", _EVIL)  # what a path may have
        entry["path"] = renamed[entry["path"]]
    for artifact in manifest["artifacts"]:
        artifact.update(files=[renamed[path] for path in artifact["files"]], target=_EVIL, needs={_EVIL: _EVIL})
        for record in artifact["parity"].values():
            record["runtimes"] = {_EVIL: 1.0}


def test_no_text_of_a_manifest_becomes_an_element_or_turns_the_line(
    packaged: Path, nobody: Path, tmp_path: Path
) -> None:
    copy = edited(packaged, tmp_path / "<i>evil", _poison)
    findings = report.gather(copy, profile_folder=nobody, against=packaged)
    shown = Page(report.page(findings))
    assert not shown.named("script")
    assert not shown.named("img")
    assert not shown.named("i")
    assert "<i>evil" in shown.text
    assert "<script>alert(1)</script>" in shown.text  # as text
    assert "\u202e" not in shown.text
    assert "onerror" not in {key for _, attributes in shown.elements for key in attributes}
    told = report.markdown(findings)
    outside = re.sub(r"(`+).*?\1", "", told)
    assert "<script" not in outside
    assert "<img" not in outside


@pytest.mark.parametrize(
    "name", ["a|b", "a`b", "[x](http://evil)", "@someone #1", "*b* _i_ ~s~", "x\ny", "www.evil.org"]
)
def test_a_name_means_nothing_to_markdown(packaged: Path, nobody: Path, tmp_path: Path, name: str) -> None:
    copy = edited(packaged, tmp_path / "copy", lambda manifest: manifest["model"].update(name=name))
    heading = report.markdown(report.gather(copy, profile_folder=nobody)).splitlines()[2]
    said = heading.removeprefix("### ")
    assert re.sub(r"\\(.)", r"\1", said).replace("<!-- -->", "") == shown(name)
    assert not re.search(r"(?<!\\)[|`*_\[\]#~]|@(?!<)|(?<!\\)://|www\.", said)


def test_the_same_bundle_gives_the_same_bytes(packaged: Path, nobody: Path, times: Path) -> None:
    first, second = (
        report.page(report.gather(packaged, profile_folder=nobody, bench_files=[times], devices=["pixel7"]))
        for _ in range(2)
    )
    assert first == second


def test_an_archive_is_read_as_its_folder_is(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    from hydra_export import archive

    archive.write(packaged, tmp_path / "bundle.zip", "bundle")
    texts = [
        report.page(report.gather(place, profile_folder=nobody)).replace(str(place), "")
        for place in (packaged, tmp_path / "bundle.zip")
    ]
    assert texts[0] == texts[1]


# What a manifest lacks


def test_a_model_of_unknown_accuracy_has_sizes_and_parity_and_no_chart(exported: Path, nobody: Path) -> None:
    shown = page(exported, nobody)
    assert "Top-1 is unknown, as the checkpoint does not state it." in shown.text
    assert not [svg for svg in shown.named("svg") if svg.get("role") == "img"]
    assert "k = 2, 4; top-1 is not known" in cells(shown)
    assert "The checkpoint does not state one. Ask whoever trained it." in cells(shown)
    assert not {"Labels", "Top-1 measured on", "top-1", "trained", "unknown"} & cells(shown)
    assert {"onnx separate, fp32", "onnx shared, fp32"} <= cells(shown)
    assert "None" not in shown.text
    assert "nan" not in shown.text


def test_head_counts_of_unknown_accuracy_are_named_and_left_out_of_the_charts(
    packaged: Path, nobody: Path, tmp_path: Path
) -> None:
    copy = edited(packaged, tmp_path / "copy", lambda m: m["model"]["subnetworks"][1].update(accuracy=None))
    text = report.page(report.gather(copy, profile_folder=nobody))
    assert "Not drawn, because top-1 is unknown: k = 6." in text
    gmacs = re.search(r'<svg[^>]*aria-labelledby="gmacs-title.*?</svg>', text)
    assert gmacs is not None
    assert gmacs[0].count("<g><title>") == 1


@pytest.mark.parametrize(("projection", "said"), [(0, ", features, no classes"), (5, ", 5 features, no classes")])
def test_a_backbone_without_classes_reads_well(projection: int, said: str, tmp_path: Path, nobody: Path) -> None:
    from hydra_export.architecture import HydraConfig
    from hydra_export.preprocess import Preprocessing

    config = HydraConfig(heads=2, head_dim=8, depth=1, patch_size=4, image_size=8, num_classes=0, projection=projection)
    data = Preprocessing(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    info = checkpoint_file.CheckpointInfo(name="backbone", config=config, preprocessing=data)
    checkpoint_file.write(tmp_path / "b.safetensors", perturbed(config).state_dict(), info)
    export(checkpoint.load(tmp_path / "b.safetensors"), tmp_path / "bundle", heads=[1, 2])
    shown = page(tmp_path / "bundle", nobody)
    assert said in shown.text
    assert "0 classes" not in shown.text


def test_int8_without_labels_says_on_how_many_images_it_agrees(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    def without_labels(manifest: Any) -> None:
        for artifact in manifest["artifacts"]:
            for record in artifact["parity"].values():
                record.update(
                    accuracy=None, accuracy_fp32=None, judged_by="agreement" if record["bound"] is None else "bound"
                )

    copy = edited(packaged, tmp_path / "copy", without_labels)
    shown = page(copy, nobody)
    assert "judged by agreement on 200 images, without labels" in shown.text
    worst = min(
        r.top1_agreement for a in bundle.read(copy).artifacts if a.precision == "int8" for r in a.parity.values()
    )
    assert f"agrees {worst:.1%}" in cells(shown)


def test_integer_activations_are_told_apart_from_int8(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    def counted(manifest: Any) -> None:
        for artifact in manifest["artifacts"]:
            if artifact["precision"] == "int8" and artifact["graph"] == "separate":
                artifact["precision"] = "int8-static"
                for record in artifact["parity"].values():
                    record["accuracy"] = record["accuracy_fp32"] - 0.75

    copy = edited(packaged, tmp_path / "copy", counted)
    found = report.gather(copy, profile_folder=nobody)
    text = report.page(found)
    assert found.gated == ("int8", "int8-static")
    assert "For int8 and int8-static it is the subnetwork&#x27;s top-1 plus the change measured" in text
    top1 = bundle.read(copy).model.accuracy[3] - 0.75
    title = rf"<title>onnx separate, int8-static, k = 3: [^<]*, {re.escape(words.accuracy(top1))}</title>"
    assert re.search(title, text)
    for sign in ('class="line int8-static"', 'class="mark int8-static"'):
        assert sign in text
    assert re.search(r"\.int8-static \{ stroke: var\(--int8-static\); \}", text)
    costs = summary.glance(found)
    assert costs["int8-static"].startswith("top-1 changes by")
    assert "0.75" in costs["int8-static"]
    assert "0.75" not in costs["int8"]
    assert costs["int8-static"] in report.markdown(found)


def test_an_error_over_its_bound_is_said_to_be(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    def broken(manifest: Any) -> None:
        record = manifest["artifacts"][0]["parity"]["3"]
        record["max_abs_error"] = 2 * record["bound"]

    shown = page(edited(packaged, tmp_path / "copy", broken), nobody)
    assert "200 % (over)" in cells(shown)
    assert "1 of 6 checks are over the bound" in shown.text


def test_without_a_measurement_or_a_device_the_page_says_how_to_get_them(
    packaged: Path, nobody: Path, times: Path
) -> None:
    shown = page(packaged, nobody)
    assert not {"Measured latency", "Devices"} & cells(shown)
    assert {"hydra-export report BUNDLE --bench bench.json", "hydra-export profile list"} <= cells(shown)
    both = page(packaged, nobody, bench_files=[times], devices=["pixel7"])
    assert {"Measured latency", "Devices"} <= cells(both)
    assert "To add" not in both.text


# Latency


def test_measured_times_are_those_of_the_bench_file(packaged: Path, nobody: Path, times: Path) -> None:
    findings = report.gather(packaged, profile_folder=nobody, bench_files=[times])
    timings = json.loads(times.read_bytes())["timings"]
    shown = cells(Page(report.page(findings)))
    assert sum(len(timed.moments) for timed in findings.measured) == len(timings)
    for timing in timings:
        assert words.milliseconds(timing["median_ms"]).removesuffix(" ms") in shown
        assert words.interval(timing["p10_ms"], timing["p90_ms"]).removesuffix(" ms") in shown


def test_times_of_an_artifact_that_computes_something_else_are_left_out(
    packaged: Path, nobody: Path, times: Path, tmp_path: Path
) -> None:
    document = json.loads(times.read_bytes())
    assert document["timings"][0]["bound"] is not None
    document["timings"][0]["max_abs_error"] = 1.0
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    findings = report.gather(packaged, profile_folder=nobody, bench_files=[tmp_path / "wrong.json"])
    assert sum(len(timed.moments) for timed in findings.measured) == len(document["timings"]) - 1


def test_what_was_saved_of_this_model_is_shown_once_and_its_device_by_itself(
    packaged: Path, nobody: Path, times: Path
) -> None:
    from hydra_export.bench import read, save

    known, _, count = save(read(times), nobody, "rpi5")
    findings = report.gather(packaged, profile_folder=nobody)
    assert [advice.profile.id for advice in findings.devices] == ["rpi5"]
    assert {timed.where for timed in findings.measured} == {known.profile.name}
    assert sum(len(timed.moments) for timed in findings.measured) == count
    (advice,) = findings.devices
    runtime = advice.path.runtime
    of_runtime = [r for r in known.own if (r.runtime, r.threads) == (runtime, 1) and r.precision != "int8"]
    fastest = {k: min(r.ms for r in of_runtime if r.k == k) for k in (3, 6)}  # where bf16 is, it may be
    assert {k: float(f"{estimate.ms:.5g}") for k, estimate in advice.estimates.items()} == fastest
    assert {estimate.provenance for estimate in advice.estimates.values()} == {"measured"}
    both = report.gather(packaged, profile_folder=nobody, bench_files=[times])
    timings = json.loads(times.read_bytes())["timings"]
    assert sum(len(timed.moments) for timed in both.measured) == len(timings)


def test_a_device_of_which_nothing_is_known_gets_no_number(packaged: Path, nobody: Path) -> None:
    (nobody / "card.toml").write_text('schema_version = 1\nid = "card"\nname = "A Card"\nclass = "accelerator"\n')
    findings = report.gather(packaged, profile_folder=nobody, devices=["card", "A card"])
    (advice,) = findings.devices
    assert (advice.estimates, advice.choice) == ({}, None)
    text = report.page(findings)
    assert "No estimate: no known Vision Transformer was timed in this way on A Card or a similar device" in text
    assert "device-0-chart" not in text


_BOARD = """
schema_version = 1
id = "board"
name = "Board <one>"
class = "board"
[budget]
ms = 5
reason = "a test"
[sources]
web = "https://example.org/times?a=1&b=2, table 3"
git = "owner/name@{commit}:docs/times.md line 7"
evil = "javascript:alert(1)"
[[latency]]
model = "{model}"
k = 6
gmacs = {gmacs}
model_gmacs = {whole}
resolution = 28
runtime = "onnxruntime"
precision = "fp32"
unit = "cpu"
ms = 4.5
date = "2025-01-02"
provenance = "published"
source = "{source}"
"""


def _board(packaged: Path, folder: Path, source: str) -> None:
    manifest = bundle.read(packaged)
    gmacs = {s.heads: s.gmacs for s in manifest.model.subnetworks}
    whole = network.macs(manifest.model.config, manifest.model.config.heads) / 1e9
    text = _BOARD.format(commit="a" * 40, model="another", gmacs=gmacs[6], whole=whole, source=source)
    (folder / "board.toml").write_text(text)


def test_a_device_has_its_interval_its_budget_and_its_sources(packaged: Path, nobody: Path) -> None:
    _board(packaged, nobody, "web")
    findings = report.gather(packaged, profile_folder=nobody, devices=["board"])
    (advice,) = findings.devices
    shown = Page(report.page(findings))
    for row in advice.estimates.values():
        assert 0 < row.low < row.ms < row.high
        assert {words.milliseconds(row.ms), words.interval(row.low, row.high)} <= cells(shown)
    assert advice.heads in HEADS
    assert f"k = {advice.heads} (chosen)" in cells(shown)
    assert "budget 5 ms" in cells(shown)
    assert advice.sources["board: web"] == "https://example.org/times?a=1&b=2, table 3"
    assert "https://example.org/times?a=1&b=2" in [a["href"] for a in shown.named("a")]
    assert "Board <one>" in shown.text
    assert "The bundle contains nothing" not in shown.text  # it has ONNX files
    phone = report.gather(packaged, profile_folder=nobody, devices=["pixel7"])
    assert report.document(phone)["devices"][0]["lacks"] == "tflite"
    lacks = "The bundle contains nothing for litert, which takes tflite. Export that as well."
    assert lacks in cells(Page(report.page(phone)))


def _with_devices(heads: int | None) -> Callable[[Any], None]:
    def add(manifest: Any) -> None:
        entry: dict[str, Any] = {
            "id": "board",
            "name": "Board <one>",
            "runtime": "onnxruntime",
            "unit": "cpu",
            "target": "onnx",
        }
        entry |= {"heads": heads, "fits": True, "sure": False, "chance": 0.61, "why": "a reason", "budget_ms": 5.5}
        entry |= {"ms": 4.5, "low": 3.0, "high": 6.0, "provenance": "published", "artifacts": []}
        if heads is None:
            entry |= {"chance": None, "ms": None, "low": None, "high": None, "provenance": None}
        manifest["devices"] = [entry]

    return add


def test_what_the_export_chose_for_its_devices_is_shown_and_compared(
    packaged: Path, nobody: Path, tmp_path: Path
) -> None:
    six, three, none = (edited(packaged, tmp_path / f"of-{k}", _with_devices(k)) for k in (6, 3, None))
    _board(packaged, nobody, "web")
    findings = report.gather(three, profile_folder=nobody, against=six)
    assert [(advice.profile.id, advice.budget.ms) for advice in findings.devices] == [("board", 5.5)]
    shown = cells(Page(report.page(findings)))
    assert {"Board <one>", "4.5 ms (3 to 6 ms, published)", "about even (61 %)", "5.5 ms"} <= shown
    assert findings.changes is not None
    assert findings.changes.regressions == ("Board <one> (onnxruntime) is to run k = 3, not k = 6.",)
    assert "4.5 ms (3 to 6 ms, published)" in report.markdown(findings)
    unknown = report.gather(none, profile_folder=nobody, against=six)
    assert {"every k", "unknown"} <= cells(Page(report.page(unknown)))
    assert unknown.changes is not None
    assert unknown.changes.regressions == ("Board <one> (onnxruntime) no longer has a choice; it was k = 6.",)


@pytest.mark.parametrize("change", [{"budget_ms": 0.0}, {"runtime": "none"}, {"id": "nobody"}])
def test_a_choice_that_makes_no_sense_is_shown_and_harms_nothing(
    packaged: Path, nobody: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    def add(manifest: Any) -> None:
        _with_devices(3)(manifest)
        manifest["devices"][0].update(change)

    _board(packaged, nobody, "web")
    assert "Board <one>" in page(edited(packaged, tmp_path / "copy", add), nobody).text


def test_a_file_in_a_repository_is_linked_and_a_script_is_not() -> None:
    commit = "0123456789" * 4
    assert linked(f"owner/name@{commit}:docs/a.md line 7") == (
        f'<a href="https://github.com/owner/name/blob/{commit}/docs/a.md" rel="noreferrer noopener external">'
        f"owner/name@{commit}:docs/a.md</a> line 7"
    )
    for text in ("javascript:alert(1)", "data:text/html,x", "file:///etc/passwd"):
        assert linked(text) == text
    assert linked('https://a.org/"onclick=x').count('"') == 4


@pytest.mark.parametrize("part", ["a-", "a/", "a.b/c@", "http://", "https://.", "a/b@0123456789"])
def test_long_texts_are_linked_in_time_in_proportion_to_them(part: str) -> None:
    began = time.process_time()
    linked(part * 100_000)
    assert time.process_time() - began < 2


# What changed


def test_a_bundle_does_not_differ_from_itself(packaged: Path, nobody: Path) -> None:
    findings = report.gather(packaged, profile_folder=nobody, against=packaged)
    assert findings.changes is not None
    assert findings.changes.nothing
    assert findings.changes.regressions == ()
    assert "Nothing: the artifacts, the model and the tools are the same." in report.page(findings)
    assert "Nothing changed" in report.markdown(findings)


def _older(manifest: Any) -> None:
    """It was a little better, one artifact smaller, one of int8 better, one not there, and one more was."""
    manifest["model"]["subnetworks"][0]["accuracy"] += 0.5
    manifest["model"]["checkpoint_sha256"] = "f" * 64
    manifest["model"]["license"] = "MIT"
    manifest["tool"]["onnx"] = "1.17.0"
    by_path = {artifact["path"]: artifact for artifact in manifest["artifacts"]}
    small = by_path["onnx/hydravit-fashion-mnist-k3.onnx"]
    for entry in (small, *(f for f in manifest["files"] if f["path"] == small["path"])):
        entry.update(bytes=entry["bytes"] // 2, sha256="0" * 64)
    better = by_path["onnx/hydravit-fashion-mnist-k6-int8.onnx"]
    better["parity"]["6"]["accuracy"] += 1.0
    nearer = by_path["onnx/hydravit-fashion-mnist-k6.onnx"]
    nearer["parity"]["6"]["max_abs_error"] /= 3
    gone = by_path["onnx/hydravit-fashion-mnist-k3-int8.onnx"]
    manifest["artifacts"].remove(gone)
    manifest["files"] = [file for file in manifest["files"] if file["path"] != gone["path"]]
    more = json.loads(json.dumps(small))
    more.update(path="onnx/more.onnx", files=["onnx/more.onnx"])
    manifest["artifacts"].append(more)
    manifest["files"].append({"path": "onnx/more.onnx", "bytes": more["bytes"], "sha256": more["sha256"]})


def test_what_changed_is_said_and_what_became_worse_is_a_regression(
    packaged: Path, nobody: Path, tmp_path: Path
) -> None:
    old = edited(packaged, tmp_path / "old", _older)
    findings = report.gather(packaged, profile_folder=nobody, against=old)
    found = findings.changes
    assert found is not None
    status = {each.path.removeprefix("onnx/hydravit-fashion-mnist-"): each.status for each in found.artifacts}
    assert status == {
        "k3.onnx": "changed",
        "k6.onnx": "changed",
        "k3-int8.onnx": "added",
        "k6-int8.onnx": "changed",
        "onnx/more.onnx": "removed",
        **{name: "same" for name in status if name.startswith("universal")},
    }
    assert {each.what: (each.before, each.after) for each in found.tools} == {"onnx": ("1.17.0", findings.tool["onnx"])}
    assert {each.what for each in found.facts} == {"checkpoint", "licence"}
    now = findings.subnetworks[0].accuracy
    assert now is not None
    regressions = "\n".join(found.regressions)
    assert (
        f"Top-1 at k = 3 went from {words.accuracy(now + 0.5)} to {words.accuracy(now)} (−0.50 points)" in regressions
    )
    assert "onnx/hydravit-fashion-mnist-k3.onnx takes 0.7 MB to fetch, not 0.4 MB (+100.0 %)" in regressions
    assert "onnx/more.onnx is gone" in regressions
    assert "onnx/hydravit-fashion-mnist-k6-int8.onnx changes top-1 by" in regressions
    assert len(found.regressions) == 4  # the nearer parity is far from its bound still
    shown, told = Page(report.page(findings)), report.markdown(findings)
    for each in found.regressions:
        assert each in cells(shown)
    assert "**4 regressions** since" in told
    assert f"| k = 3 | {words.accuracy(now + 0.5)} | {words.accuracy(now)} | −0.50 points |" in told
    back = report.gather(old, profile_folder=nobody, against=packaged)
    assert back.changes is not None
    assert [each for each in back.changes.regressions if "is gone" not in each] == []


def test_artifacts_of_another_name_are_compared_by_what_they_are(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    def renamed(manifest: Any) -> None:
        path = manifest["artifacts"][0]["path"]
        manifest["artifacts"][0].update(path="onnx/old.onnx", files=["onnx/old.onnx"])
        next(file for file in manifest["files"] if file["path"] == path)["path"] = "onnx/old.onnx"

    old = edited(packaged, tmp_path / "old", renamed)
    found = report.gather(packaged, profile_folder=nobody, against=old).changes
    assert found is not None
    assert {each.status for each in found.artifacts} == {"same"}


def test_an_error_that_comes_near_its_bound_is_a_regression(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    def nearer(manifest: Any) -> None:
        record = manifest["artifacts"][0]["parity"]["3"]
        record["max_abs_error"] = 0.9 * record["bound"]

    new = edited(packaged, tmp_path / "new", nearer)
    found = report.gather(new, profile_folder=nobody, against=packaged).changes
    assert found is not None
    (said,) = found.regressions
    assert "is off by 90 % of what parity allows" in said


def test_accuracy_within_a_tenth_of_a_point_is_no_regression(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    def older(manifest: Any) -> None:
        manifest["model"]["subnetworks"][0]["accuracy"] += 0.1

    old = edited(packaged, tmp_path / "old", older)
    found = report.gather(packaged, profile_folder=nobody, against=old).changes
    assert found is not None
    assert len(found.accuracies) == 1
    assert found.regressions == ()


@pytest.mark.parametrize(("factor", "slower"), [(0.5, True), (1.0, False)])
def test_times_of_both_bundles_are_compared(
    packaged: Path, nobody: Path, times: Path, tmp_path: Path, factor: float, slower: bool
) -> None:
    old = edited(packaged, tmp_path / "old", lambda m: m["model"].update(checkpoint_sha256="f" * 64))
    document = json.loads(times.read_bytes())
    document["model"]["checkpoint_sha256"] = "f" * 64
    for timing in document["timings"]:
        for name in ("median_ms", "mean_ms", "min_ms", "p10_ms", "p90_ms", "p99_ms"):
            timing[name] *= factor
        timing["runs_ms"] = [ms * factor for ms in timing["runs_ms"]]
    (tmp_path / "old.json").write_text(json.dumps(document))
    files = [tmp_path / "old.json", times]
    findings = report.gather(packaged, profile_folder=nobody, against=old, bench_files=files)
    assert findings.changes is not None
    found = findings.changes.latencies
    assert len(found) == len(document["timings"])
    assert all(each.ratio == pytest.approx(1 / factor) for each in found)
    assert any(each.slower for each in found) is slower
    assert bool([each for each in findings.changes.regressions if "onnxruntime" in each]) is slower
    assert {timed.origin for timed in findings.measured} == {str(times)}


def test_the_choice_for_a_device_is_compared(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    _board(packaged, nobody, "web")

    def only_three(manifest: Any) -> None:
        manifest["model"]["subnetworks"] = manifest["model"]["subnetworks"][:1]
        for artifact in manifest["artifacts"]:
            artifact["heads"] = [k for k in artifact["heads"] if k == 3]
            artifact["parity"] = {k: record for k, record in artifact["parity"].items() if k == "3"}
        manifest["artifacts"] = [artifact for artifact in manifest["artifacts"] if artifact["heads"]]

    small = edited(packaged, tmp_path / "small", only_three)
    findings = report.gather(small, profile_folder=nobody, against=packaged, devices=["board"])
    (before,) = report.gather(packaged, profile_folder=nobody, devices=["board"]).devices
    assert before.heads == 6
    assert findings.changes is not None
    (choice,) = findings.changes.choices
    assert (choice.device, choice.before, choice.after) == ("Board <one>", 6, 3)
    assert "Board <one> is to run k = 3, not k = 6." in findings.changes.regressions


def test_the_page_and_the_comment_have_the_same_tables(packaged: Path, nobody: Path, tmp_path: Path) -> None:
    findings = report.gather(packaged, profile_folder=nobody, against=edited(packaged, tmp_path / "old", _older))
    shown = cells(Page(report.page(findings)))
    lines = [line for line in report.markdown(findings).splitlines() if re.match(r"\| (?!---)", line)]
    rows = [html.unescape(re.sub(r"\\(.)", r"\1", line.strip("| "))).split(" | ") for line in lines]
    names = {row[0] for row in rows}
    assert names >= {"k = 3", "onnx separate, fp32", "onnx/more.onnx", "checkpoint", "licence"}
    for row in rows:
        assert row[0] == "checkpoint" or set(row) <= shown, row  # the comment shortens hashes


# The command


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["report", *map(str, arguments)])
    return (status, *capsys.readouterr())


def test_the_command_writes_a_page_and_replaces_only_its_own(
    exported: Path, nobody: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = (exported, "--profiles", nobody)
    status, out, _ = run(capsys, *given)
    assert status == 0
    assert "report.html" in out
    first = Path("report.html").read_text()
    assert first == report.page(report.gather(exported, profile_folder=nobody))
    assert run(capsys, *given)[0] == 0
    notes = f"notes on {first[:400]}"  # what they quote does not make them ours
    for foreign in ("my notes", notes, "<!doctype html>\n<html><title>mine</title></html>", ""):
        Path("report.html").write_text(foreign)
        status, out, err = run(capsys, *given)
        assert (status, out) == (2, "")
        assert "is not a hydra-export report and would be overwritten" in err
        assert Path("report.html").read_text() == foreign
    assert run(capsys, *given, "--out", "a/folder/page.html")[0] == 0
    assert run(capsys, *given, "--out", "a/folder")[0] == 2


def test_markdown_goes_to_standard_output_whole(
    packaged: Path, nobody: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, packaged, "--profiles", nobody, "--format", "md")
    assert (status, err) == (0, "")
    assert out == report.markdown(report.gather(packaged, profile_folder=nobody))
    assert out.startswith("<!-- hydra-export report -->\n")
    manifest = bundle.read(packaged)
    for entry in manifest.model.subnetworks:
        assert entry.accuracy is not None
        assert words.accuracy(entry.accuracy) in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["profiles"]
    assert run(capsys, packaged, "--profiles", nobody, "--format", "md", "--out", "comment.md")[0] == 0
    assert Path("comment.md").read_text() == out
    assert run(capsys, packaged, "--profiles", nobody, "--out", "comment.md")[0] == 0  # a report of ours


def test_json_holds_every_figure(
    packaged: Path, nobody: Path, times: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "page.html"
    options = ["--profiles", nobody, "--bench", times, "--against", packaged, "--device", "pixel7,rpi5", "--json"]
    status, out, _ = run(capsys, packaged, "--out", place, *options)
    assert status == 0
    document = json.loads(out)
    assert (document["schema_version"], document["out"], document["format"]) == (1, str(place), "html")
    assert [device["id"] for device in document["devices"]] == ["pixel7", "rpi5"]
    assert document["changes"]["regressions"] == []
    manifest = json.loads((packaged / "manifest.json").read_bytes())
    assert [each["path"] for each in document["artifacts"]] == [each["path"] for each in manifest["artifacts"]]
    first, listed = document["artifacts"][0], manifest["artifacts"][0]
    assert first["proofs"][0]["max_abs_error"] == listed["parity"]["3"]["max_abs_error"]
    assert first["proofs"][0]["allowed"] == listed["parity"]["3"]["bound"]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["{none}"], 2, "There is no folder"),
        (["{empty}"], 2, "is not a bundle"),
        (["{bundle}", "--against", "{empty}"], 2, "is not a bundle"),
        (["{bundle}", "--device", "pixel77"], 2, "No device 'pixel77'. Did you mean"),
        (["{bundle}", "--device", "pixel7,,rpi5"], 2, "--device is 'pixel7,,rpi5'"),
        (["{bundle}", "--profiles", "{none}"], 2, "is not a folder"),
        (["{bundle}", "--bench", "{none}"], 2, "cannot be read"),
        (["{bundle}", "--bench", "{foreign}"], 2, "is not a bench file"),
        (["{bundle}", "--bench", "{other}"], 2, "this is another model"),
        (["{bundle}", "--format", "pdf"], 2, "pdf"),
        (["{foreign}"], 2, "is not an archive"),
        (["{damaged}"], 1, "is not a valid manifest"),
    ],
)
def test_what_cannot_be_reported_is_one_clear_message_and_writes_nothing(
    exported: Path,
    times: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("{")
    (tmp_path / "foreign.json").write_text('{"kind": 1}')
    places = {
        "none": tmp_path / "nothing",
        "empty": tmp_path / "empty",
        "damaged": tmp_path / "damaged",
        "foreign": tmp_path / "foreign.json",
        "bundle": exported,
        "other": times,
    }
    found, out, err = run(capsys, *(option.format(**places) for option in options))
    assert (found, out) == (status, "")
    assert said in err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "report.html").exists()


def test_the_command_needs_neither_torch_nor_a_runtime(exported: Path, nobody: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from hydra_export.cli import main; "
        f"assert main(['report', {str(exported)!r}, '--profiles', {str(nobody)!r}, '--format', 'md']) == 0; "
        "assert not {'torch', 'onnxruntime', 'onnx', 'matplotlib'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=tmp_path)


# Drawing


@pytest.mark.parametrize(
    "wanted", [[0.0, 0, 0, 0], [5.0, 6, 100, 100.5], [100.0, 100, 100], [-5.0, 50, 200], [1.0], []]
)
def test_labels_are_apart_and_within_the_picture(wanted: list[float]) -> None:
    places = scale.apart(wanted, 14, 0, 100)
    assert all(0 <= place <= 100 for place in places)
    assert all(after - before >= 14 - 1e-9 for before, after in itertools.pairwise(places))
    if wanted == [1.0]:
        assert places == [1.0]


@pytest.mark.parametrize(
    "values", [[0.003, 0.046], [1.25, 17.6], [5.0], [0.3, 400.0], [86.46, 88.4], [1e-6, 1e-6], [20.0, 90.0]]
)
def test_axes_hold_their_values_with_a_few_round_ticks(values: list[float]) -> None:
    for from_zero in (True, False):
        axis = scale.over(values, 0, 100, from_zero=from_zero)
        assert all(0 <= axis(value) <= 100 for value in values)
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 7, (values, from_zero, ticks)
        assert all(-1e-6 <= axis(tick) <= 100 + 1e-6 for tick in ticks)
        places = [axis(tick) for tick in ticks]
        assert places == sorted(places)


@pytest.mark.parametrize(("wanted", "expected"), [([50.0, 52.0], [44.0, 58.0]), ([10.0, 90.0], [10.0, 90.0])])
def test_labels_that_touch_share_the_way_and_others_stay(wanted: list[float], expected: list[float]) -> None:
    assert scale.apart(wanted, 14, 0, 100) == expected


def test_of_head_counts_that_lie_close_together_the_ends_and_the_best_are_named(
    packaged: Path, nobody: Path, tmp_path: Path
) -> None:
    def twelve(manifest: Any) -> None:
        first, config = manifest["model"]["subnetworks"][0], msgspec.convert(manifest["model"]["config"], HydraConfig)
        manifest["model"]["subnetworks"] = [
            {
                **first,
                "heads": k,
                "width": config.width(k),
                "params": network.num_params(config, k),
                "accuracy": 88 + (k == 9) - (k - 6.5) ** 2 / 100,
                "gmacs": network.macs(config, k) / 1e9,
            }
            for k in range(1, 13)
        ]

    text = report.page(report.gather(edited(packaged, tmp_path / "copy", twelve), profile_folder=nobody))
    gmacs = re.search(r'<svg[^>]*aria-labelledby="gmacs-title.*?</svg>', text)
    assert gmacs is not None
    named = {int(k) for k in re.findall(r">k = (\d+)</text>", gmacs[0])}
    assert {1, 9, 12} <= named < set(range(1, 13))


def test_what_is_said_to_be_html_stays_and_all_else_is_escaped() -> None:
    assert tag("p", "<", tag("b", "&"), [None, "x"], class_='"', data_x=1) == (
        '<p class="&quot;" data-x="1">&lt;<b>&amp;</b>x</p>'
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (words.share(0.0), "0.0 %"),
        (words.share(1e-5), "< 0.1 %"),
        (words.share(0.0672), "6.7 %"),
        (words.share(0.61), "61 %"),
        (words.points(-0.2), "−0.20 points"),
        (words.points(-0.001), "0.00 points"),
        (words.ratio(1.079), "+7.9 %"),
        (words.size(254_691), "0.3 MB"),
        (words.size(33_279), "33.3 kB"),
        (words.size(1_400_000_000), "1.40 GB"),
    ],
)
def test_numbers_read_as_they_should(told: str, expected: str) -> None:
    assert told == expected
