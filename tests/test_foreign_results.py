"""Results of Qualcomm AI Hub and of tools that print times, in the forms that these write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hydra_export import profiles
from hydra_export.cli import main

Capture = pytest.CaptureFixture[str]

AI_HUB: dict[str, Any] = {
    "execution_summary": {
        "estimated_inference_time": 5900,
        "estimated_inference_peak_memory": 190_000_000,
        "first_load_time": 311_671,
        "first_load_peak_memory": 14_786_560,
        "warm_load_time": 198_597,
        "warm_load_peak_memory": 14_573_568,
        "compile_time": None,
        "compile_peak_memory": None,
        "all_inference_times": [5900, 6000, 6100, 6200, 6900],
    },
    "execution_detail": [
        {"name": "conv", "type": "Conv2d", "compute_unit": "NPU"},
        {"name": "linear", "type": "FullyConnected", "compute_unit": "NPU"},
        {"name": "gather", "type": "Gather", "compute_unit": "CPU"},
    ],
}
BENCHMARK_MODEL = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [4]
INFO: Graph: [/data/local/tmp/{name}]
INFO: #threads used for CPU inference: [4]
INFO: Loaded model /data/local/tmp/{name}
INFO: Initialized session in 17.187ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=4 first=170000 curr=151000 min=150000 max=170000 avg=155000 std=9000
INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=151000 curr=150100 min=147000 max=161000 avg=150250 std=2000{more}
INFO: Inference timings in us: Init: 17187, First inference: 170000, Warmup (avg): 155000, Inference (avg): 150250
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=54.2852 overall=173.4102
"""
REFERENCE = "hydravit_base_patch16_224"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("COLUMNS", "160")
    return profiles.user_folder()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def taken(path: Path, capsys: Capture, *arguments: str) -> list[dict[str, Any]]:
    assert main(["profile", "import", str(path), *arguments, "--json"]) == 0, capsys.readouterr().err
    records: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["records"]
    return records


def refused(path: Path, capsys: Capture, *arguments: str) -> str:
    assert main(["profile", "import", str(path), *arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_ai_hub_times_are_taken_with_what_they_say_and_what_the_user_says(results: Path, capsys: Capture) -> None:
    results.write_text(json.dumps(AI_HUB))
    said = ("--device", "galaxy-s24", "--heads", "12", "--runtime", "qnn", "--date", "2026-02-03")
    (record,) = taken(results, capsys, *said)
    assert (record["k"], record["runtime"], record["unit"], record["date"]) == (12, "qnn", "npu", "2026-02-03")
    assert (record["ms"], record["statistic"]) == (6.1, "median")
    assert record["low"] < 6.0 < 6.2 < record["high"]
    assert record["peak_memory_mb"] == 190.0
    assert record["ops"] == {"npu": 2, "cpu": 1}
    assert main(["profile", "--device", "galaxy-s24", "--runtime", "qnn", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["estimates"][-1]
    assert (answer["ms"], answer["provenance"]) == (6.1, "measured")


def test_an_ai_hub_file_without_single_times_gives_its_estimate(results: Path, capsys: Capture) -> None:
    summary = {**AI_HUB["execution_summary"], "all_inference_times": []}
    results.write_text(json.dumps({**AI_HUB, "execution_summary": summary}))
    (record,) = taken(results, capsys, "--device", "galaxy-s24", "--heads", "6", "--runtime", "litert")
    assert (record["ms"], record.get("statistic", "unknown")) == (5.9, "unknown")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"execution_detail": []}, "execution_detail: does not state which compute unit"),
        ({"execution_detail": [{"compute_unit": "TPU"}]}, "execution_detail[0].compute_unit: 'tpu'"),
        ({"execution_detail": 3}, "execution_detail: is not a list"),
        (
            {"execution_summary": {"estimated_inference_time": -5}},
            "estimated_inference_time: -5 is not a number above 0",
        ),
        ({"execution_summary": {"all_inference_times": [5900, None]}}, "all_inference_times[1]: None"),
        ({"execution_summary": 5}, "execution_summary: is not a table"),
    ],
)
def test_a_damaged_ai_hub_file_is_refused_by_field(
    results: Path, capsys: Capture, change: dict[str, Any], told: str
) -> None:
    results.write_text(json.dumps({**AI_HUB, **change}))
    message = refused(results, capsys, "--device", "galaxy-s24", "--heads", "12", "--runtime", "qnn")
    assert str(results) in message
    assert told in message


def test_what_an_ai_hub_file_does_not_say_is_asked_for(results: Path, capsys: Capture) -> None:
    results.write_text(json.dumps(AI_HUB))
    assert "does not state its device" in refused(results, capsys, "--heads", "12", "--runtime", "qnn")
    assert "--heads K" in refused(results, capsys, "--device", "galaxy-s24", "--runtime", "qnn")
    assert "does not state the runtime" in refused(results, capsys, "--device", "galaxy-s24", "--heads", "12")
    assert "has no k = 2" in refused(results, capsys, "--device", "galaxy-s24", "--heads", "2", "--runtime", "qnn")
    wrong = ("--device", "galaxy-s24", "--heads", "12", "--runtime", "onxruntime")
    assert "No runtime 'onxruntime'. Did you mean 'onnxruntime'?" in refused(results, capsys, *wrong)
    assert not (profiles.user_folder() / "measured").exists()
    date = ("--device", "galaxy-s24", "--heads", "12", "--runtime", "qnn", "--date", "3.2.2026")
    assert "3.2.2026 is not a date" in refused(results, capsys, *date)


def test_benchmark_model_says_head_count_threads_time_and_memory(results: Path, capsys: Capture) -> None:
    results.write_text(BENCHMARK_MODEL.format(name=f"{REFERENCE}-k6.tflite", more=""))
    (record,) = taken(results, capsys, "--device", "pixel7")
    assert (record["k"], record["runtime"], record["unit"], record["threads"]) == (6, "litert", "cpu", 4)
    assert (record["ms"], record["statistic"], record["precision"]) == (150.25, "mean", "fp32")
    assert record["low"] == pytest.approx(150.25 - 2.563, abs=0.01)
    assert record["peak_memory_mb"] == 173.4
    assert main(["profile", "--device", "pixel7", "--json"]) == 0
    estimates = {one["heads"]: one for one in json.loads(capsys.readouterr().out)["estimates"]}
    assert (estimates[6]["ms"], estimates[6]["provenance"]) == (150.25, "measured")
    assert estimates[12]["provenance"] == "estimated"
    assert 4 * 150 > estimates[12]["ms"] > 3 * 150


@pytest.mark.parametrize("precision", ["int8", "int8-static", "w8a16"])
def test_the_name_of_the_file_says_in_which_integers_it_computes(
    results: Path, capsys: Capture, precision: str
) -> None:
    results.write_text(BENCHMARK_MODEL.format(name=f"{REFERENCE}-k6-{precision}.tflite", more=""))
    (record,) = taken(results, capsys, "--device", "pixel7")
    assert (record["k"], record["precision"]) == (6, precision)


def test_several_runs_in_one_file_are_all_taken(results: Path, capsys: Capture) -> None:
    more = " p5=148000 median=150100 p95=155000"
    runs = [BENCHMARK_MODEL.format(name=f"{REFERENCE}-k{k}.tflite", more=more) for k in (3, 6, 12)]
    gpu = (
        "INFO: Use gpu: [1]\nINFO: Explicitly applied GPU delegate, and the model graph will be completely executed.\n"
    )
    runs[1] = runs[1].replace("INFO: Graph", f"{gpu}INFO: Graph")
    results.write_text("".join(runs))
    records = taken(results, capsys, "--device", "pixel7")
    assert [(r["k"], r["unit"], r["ms"]) for r in records] == [(3, "cpu", 150.1), (6, "gpu", 150.1), (12, "cpu", 150.1)]
    assert all(r["statistic"] == "median" for r in records)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("(avg): 150250", "(avg): -5", "Inference (avg): -5.0 is not a number above 0"),
        ("(avg): 150250", "(avg): nan", "Inference (avg): nan is not"),
        ("(avg): 150250", "(avg): 4.6.9", "Inference (avg): 4.6.9 is not"),
        (", Inference (avg): 150250", "", "Inference (avg): None is not"),
        ("std=2000 ", "std=-1 ", "std: -1.0 is not"),
        ("median=150100", "median=1.2.3", "median: 1.2.3 is not"),
        ("overall=173.4102", "overall=1.2.3", "memory footprint: 1.2.3 is not"),
    ],
)
def test_a_run_with_a_wrong_number_is_refused_by_field_with_all_of_the_file(
    results: Path, capsys: Capture, old: str, new: str, told: str
) -> None:
    more = " p5=148000 median=150100 p95=155000"
    runs = [BENCHMARK_MODEL.format(name=f"{REFERENCE}-k{k}.tflite", more=more) for k in (3, 6)]
    assert old in runs[1]
    results.write_text(runs[0] + runs[1].replace(old, new))
    assert f"{results}: run 2: {told}" in refused(results, capsys, "--device", "pixel7")
    assert not (profiles.user_folder() / "measured").exists()


def test_benchmark_model_runs_litert_and_nothing_else(results: Path, capsys: Capture) -> None:
    results.write_text(BENCHMARK_MODEL.format(name=f"{REFERENCE}-k6.tflite", more=""))
    told = refused(results, capsys, "--device", "pixel7", "--runtime", "onnxruntime")
    assert "is from benchmark_model, which runs litert, not onnxruntime. Leave out --runtime." in told
    assert taken(results, capsys, "--device", "pixel7", "--runtime", "litert")[0]["runtime"] == "litert"


def test_times_of_another_model_are_refused_naming_file_and_field(
    results: Path, capsys: Capture, exported: Path
) -> None:
    results.write_text(BENCHMARK_MODEL.format(name="mobilenet_v1.tflite", more=""))
    told = refused(results, capsys, "--device", "pixel7")
    assert f"{results}: Graph: 'mobilenet_v1.tflite' is of another model than {REFERENCE}" in told
    told = refused(results, capsys, "--device", "pixel7", "--bundle", str(exported))
    assert f"is of another model than tiny in {exported}, which has tiny-k2.onnx" in told
    (record,) = taken(results, capsys, "--device", "pixel7", "--heads", "6")
    assert record["k"] == 6, "the user says that only its name is another"
    results.write_text(BENCHMARK_MODEL.format(name=f"{REFERENCE}-k6.tflite", more=""))
    assert "is of k = 6, and --heads says 12" in refused(results, capsys, "--device", "pixel7", "--heads", "12")


@pytest.mark.parametrize("content", ["", "Inference took 5 ms", "{", '{"kind": "toaster"}', "\x00\xff"])
def test_what_is_no_result_is_refused_with_what_would_be(results: Path, capsys: Capture, content: str) -> None:
    results.write_text(content)
    message = refused(results, capsys, "--device", "pixel7")
    assert str(results) in message


def test_a_file_that_is_not_there_is_refused(results: Path, capsys: Capture) -> None:
    assert f"{results} cannot be read: No such file" in refused(results, capsys, "--device", "pixel7")


def test_the_head_count_of_a_result_is_one(results: Path, capsys: Capture) -> None:
    assert "--heads '3,6' is not a head count" in refused(results, capsys, "--device", "pixel7", "--heads", "3,6")


_RUN = BENCHMARK_MODEL.format(name=f"{REFERENCE}-k3.tflite", more="")
_SHORT_RUN = "Inference timings in us: Inference (avg): 10\n"
_LONG_TIME = json.dumps(AI_HUB).replace("190000000", "9" * 400)
# Text, how often, and the ms that it still says, or why it is refused.
_LONG: dict[str, tuple[str, float | str]] = {
    "counts": (_RUN + "count=1 " * 200_000, 150.2),
    "averages": (_RUN + "count=1 " + "avg=" * 200_000 + " std=", 150.2),
    "graphs": ("Graph: [" * 100_000 + "\n" + _RUN, 150.2),
    "delegates": (_RUN + "External delegate path: [" * 50_000, 150.2),
    "spaces": ("Inference timings in us: Inference (avg):" + " " * 500_000 + "x\n", "Inference (avg): x is not"),
    "threads of 5,000 digits": (_RUN.replace("Num threads: [4]", f"Num threads: [{'1' * 5000}]"), 150.2),
    "heads of 5,000 digits": (_RUN.replace("-k3.", f"-k{'3' * 5000}."), "is of another model"),
    "a time of 5,000 digits": (_RUN.replace("(avg): 150250", "(avg): " + "1" * 5000), "is not a number above 0"),
    "runs": (_SHORT_RUN * 20_000, "contains more than 200 runs"),
    "AI Hub's 400 digits": (_LONG_TIME, "integer of 400 digits"),
    "AI Hub's 5,000 digits": (_LONG_TIME.replace("9" * 400, "9" * 5000), "is not JSON"),
    "AI Hub's depth": ('{"execution_summary": ' + "[" * 100_000, "nests too deeply"),
    "AI Hub's keys": ('{"execution_summary": {}, "execution_summary": {}}', "twice"),
    "too much": ("x" * (8 * 2**20 + 1), "allowed: at most 8 MiB"),
}


@pytest.mark.parametrize("what", _LONG)
def test_texts_that_would_take_long_or_much_are_read_in_no_time(results: Path, capsys: Capture, what: str) -> None:
    content, told = _LONG[what]
    results.write_text(content)
    began = time.process_time()
    if isinstance(told, str):
        assert told in refused(results, capsys, "--device", "pixel7", "--runtime", "litert")
    else:
        (record,) = taken(results, capsys, "--device", "pixel7")
        assert (record["k"], record["ms"]) == (3, pytest.approx(told, abs=0.1))
    assert time.process_time() - began < 5


def test_what_is_kept_can_be_read_again(results: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of measurements that nothing could read would be in the way of every command."""
    results.write_text(_RUN)
    taken(results, capsys, "--device", "pixel7")
    before = [path.read_bytes() for path in (profiles.user_folder() / "measured").iterdir()]
    monkeypatch.setattr("hydra_export.documents.TOML_BYTES", len(before[0]) - 1)
    results.write_text(_RUN.replace("Num threads: [4]", "Num threads: [2]").replace("inference: [4]", "inference: [2]"))
    assert "allowed: at most" in refused(results, capsys, "--device", "rpi5")
    assert [path.read_bytes() for path in (profiles.user_folder() / "measured").iterdir()] == before


TRTEXEC = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=/tmp/{name} {flags}
[11/20/2026-10:47:59] [I] === Model Options ===
[11/20/2026-10:47:59] [I] Format: ONNX
[11/20/2026-10:47:59] [I] === Performance summary ===
[11/20/2026-10:47:59] [I] Throughput: 130.298 qps
[11/20/2026-10:47:59] [I] Latency: min = 5.3 ms, max = 13 ms, mean = 7.6 ms, median = 7.16 ms, percentile(90%) = 9 ms
[11/20/2026-10:47:59] [I] Enqueue Time: min = 2.72 ms, max = 15.0 ms, mean = 7.63 ms, median = 7.86 ms
[11/20/2026-10:47:59] [I] GPU Compute Time: min = 5.34 ms, max = 13.3 ms, mean = 7.58 ms, median = 7.14 ms
"""
PERF_TEST = """\
Setting intra_op_num_threads to 4
Session creation time cost: 0.217932 s
Total inference time cost: 0.49481 s
Total inference requests: 5
Average inference time cost total: 98.961997 ms
Peak working set size: 271122432 bytes
Min Latency: 0.0958204 s
P50 Latency{sign} 0.0981 s
P90 Latency: 0.104 s
"""
BENCHNCNN = """\
loop_count = 8
num_threads = 4
powersave = 2
gpu_device = {gpu}
cooling_down = 1
{lines}
"""


@pytest.mark.parametrize(("flags", "precision"), [("--fp16", "fp16"), ("", "fp32"), ("--int8 --fp16", "int8-static")])
def test_trtexec_gives_the_time_of_a_whole_call(results: Path, capsys: Capture, flags: str, precision: str) -> None:
    results.write_text(TRTEXEC.format(name=f"{REFERENCE}-k6.onnx", flags=flags))
    (record,) = taken(results, capsys, "--device", "jetson-orin-nano")
    assert (record["k"], record["runtime"], record["unit"], record["ms"]) == (6, "tensorrt", "gpu", 7.16)
    assert (record["precision"], record["statistic"], record["source"]) == (precision, "median", "own-trtexec")
    assert "from trtexec, which runs tensorrt, not litert" in refused(
        results, capsys, "--device", "jetson-orin-nano", "--runtime", "litert"
    )


@pytest.mark.parametrize("sign", [":", " is"])
def test_onnxruntime_perf_test_gives_its_median(results: Path, capsys: Capture, sign: str) -> None:
    results.write_text(PERF_TEST.format(sign=sign))
    assert "does not state the head count" in refused(results, capsys, "--device", "rpi5")
    (record,) = taken(results, capsys, "--device", "rpi5", "--heads", "3", "--precision", "int8")
    assert (record["runtime"], record["unit"], record["threads"], record["ms"]) == ("onnxruntime", "cpu", 4, 98.1)
    assert (record["precision"], record["peak_memory_mb"]) == ("int8", 271.1)


def test_a_provider_whose_unit_is_not_known_is_refused(results: Path, capsys: Capture) -> None:
    results.write_text("using SpaceMITExecutionProvider\n" + PERF_TEST.format(sign=":"))
    told = refused(results, capsys, "--device", "rpi5", "--heads", "3")
    assert "ran with SpaceMITExecutionProvider, but does not state the compute unit" in told


@pytest.mark.parametrize(("gpu", "unit", "threads"), [(-1, "cpu", 4), (0, "gpu", None)])
def test_benchncnn_gives_a_time_for_each_of_its_networks(
    results: Path, capsys: Capture, gpu: int, unit: str, threads: int | None
) -> None:
    lines = [
        f"{REFERENCE}-k{k}.ncnn.param  min = {10.0 * k:7.2f}  max = {12.0 * k:7.2f}  avg = {11.0 * k:7.2f}"
        for k in (3, 6)
    ]
    results.write_text(BENCHNCNN.format(gpu=gpu, lines="\n".join(lines)))
    records = taken(results, capsys, "--device", "rpi5")
    assert [(each["k"], each["ms"], each["runtime"], each["unit"]) for each in records] == [
        (k, 11.0 * k, "ncnn", unit) for k in (3, 6)
    ]
    assert {each.get("threads") for each in records} == {threads}
    assert {each["precision"] for each in records} == {"fp16"}
    results.write_text(BENCHNCNN.format(gpu=gpu, lines="squeezenet  min =  2.93  max =  3.92  avg =  3.16"))
    assert "Graph: 'squeezenet' is of another model" in refused(results, capsys, "--device", "rpi5")


# google-ai-edge/LiteRT, litert/tools/benchmark_litert_model.h (LITERT_LOG's lines), asked for with --use_npu or not
BENCHMARK_LITERT_MODEL = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [4]
INFO: Graph: [/data/local/tmp/{name}]
{asked}INFO: Loading model from: /data/local/tmp/{name}
INFO:
========== BENCHMARK RESULTS ==========
INFO: Model initialization: 210.41 ms
INFO: Warmup (first):       9.31 ms
INFO: Warmup (avg):         7.02 ms (71 runs)
INFO: Inference (avg):      6.84 ms (146 runs)
INFO: Inference (min):      6.51 ms
INFO: Inference (max):      9.90 ms
INFO: Inference (std):      0.21
INFO: Throughput:           88.01 MB/s
INFO:
Memory Usage:
INFO: Init footprint:       120.50 MB
INFO: Overall footprint:    131.25 MB
INFO: Peak memory usage not available. (peak_mem_mb <= 0)
INFO: ======================================
"""
# Its namesake in litert/python/tools, log and results
LITERT_PYTHON = """\
2026-02-03 10:00:00 INFO benchmark_litert_model: Model:           {name}
2026-02-03 10:00:00 INFO benchmark_litert_model: Accelerators:    {accelerators}
2026-02-03 10:00:00 INFO benchmark_litert_model: Num threads:     4
2026-02-03 10:00:01 INFO benchmark_litert_model: Fully accelerated: False

========================================
 BENCHMARK RESULTS
========================================
Model initialization:  33.10 ms
Warmup (first):        41.00 ms
Warmup (avg):          40.20 ms (5 runs)
Inference (avg):       39.90 ms (50 runs)
Inference (min):       38.00 ms
Inference (max):       45.00 ms
Inference (median):    39.50 ms
Inference (std):       1.00 ms
Inference (p5):        38.40 ms
Inference (p95):       42.00 ms
Throughput:            14.41 MB/s
Fully accelerated:     False
========================================
"""
LITERT_JSON: dict[str, Any] = {
    "model": f"/models/{REFERENCE}-k6.tflite",
    "model_size_mb": 84.2,
    "accelerators": ["NPU", "CPU"],
    "signature": "serving_default",
    "fully_accelerated": False,
    "num_threads": 1,
    "latency": {"avg_ms": 6.9, "min_ms": 6.5, "max_ms": 9.9, "median_ms": 6.84, "std_ms": 0.2, "num_runs": 50},
    "throughput_mb_s": 83.2,
}
# pytorch/executorch, extension/benchmark/android: a list of metrics, of which one is the time
MINIBENCH: list[dict[str, Any]] = [
    {
        "benchmarkModel": {"name": f"{REFERENCE}-k6_qnn_q8", "backend": "", "quantization": ""},
        "metric": metric,
        "actualValue": value,
        "targetValue": 0.0,
        "deviceInfo": {"device": "samsung", "arch": "SM-S921U1", "os": "Android 14", "totalMem": 0, "availMem": 0},
    }
    for metric, value in (
        ("avg_inference_latency(ms)", 7.25),
        ("trimmean_inference_latency(ms)", 7.1),
        ("model_load_time(ms)", 71.0),
    )
]
# alibaba/MNN, benchmark/benchmark.cpp; the first form is of benchmark/result/2020-3-22.md
MNN = """\
MNN benchmark
Forward type: {asked}
--------> Benchmarking... loop = 10, warmup = 10
[-INFO-]: precision=2, use fp16 inference if your device supports and open MNN_ARM82=ON.
[ - ] {name}    max =   72.885 ms  min =   59.539 ms  avg =   60.194 ms
[ - ] quant-{name}    max =   32.885ms  min =   29.539ms  avg =   30.194ms
"""


@pytest.mark.parametrize(
    ("asked", "unit", "threads"),
    [
        ("", "cpu", 4),
        ("INFO: dispatch_library_path: /data/local/tmp\n", "npu", None),
        ("INFO: Use gpu: [1]\n", "gpu", None),
    ],
)
def test_benchmark_litert_model_says_its_mean_and_where_it_ran(
    results: Path, capsys: Capture, asked: str, unit: str, threads: int | None
) -> None:
    runs = [BENCHMARK_LITERT_MODEL.format(name=f"{REFERENCE}-k{k}.tflite", asked=asked) for k in (3, 6)]
    results.write_text("".join(runs))
    records = taken(results, capsys, "--device", "galaxy-s24")
    assert [(r["k"], r["ms"], r["unit"], r.get("threads")) for r in records] == [
        (k, 6.84, unit, threads) for k in (3, 6)
    ]
    assert {(r["runtime"], r["statistic"], r["source"]) for r in records} == {
        ("litert", "mean", "own-benchmark-litert-model")
    }
    assert {r["peak_memory_mb"] for r in records} == {131.2}
    assert records[0]["low"] < 6.84 - 0.2 < 6.84 + 0.2 < records[0]["high"]


@pytest.mark.parametrize(("accelerators", "unit"), [("CPU", "cpu"), ("GPU | CPU", "gpu"), ("NPU | CPU", "npu")])
def test_its_python_namesake_says_its_median(results: Path, capsys: Capture, accelerators: str, unit: str) -> None:
    results.write_text(LITERT_PYTHON.format(name=f"/models/{REFERENCE}-k6.tflite", accelerators=accelerators))
    (record,) = taken(results, capsys, "--device", "rpi5")
    assert (record["k"], record["ms"], record["statistic"], record["unit"]) == (6, 39.5, "median", unit)
    assert record.get("note", "") == ("" if unit == "cpu" else "part of it ran on the CPU")
    results.write_text(results.read_text().replace("39.50", "0.00"))
    assert "run 1: Inference (median): 0.0 is not a number above 0" in refused(results, capsys, "--device", "rpi5")


def test_litert_s_json_is_read_by_field(results: Path, capsys: Capture) -> None:
    results.write_text(json.dumps(LITERT_JSON))
    (record,) = taken(results, capsys, "--device", "galaxy-s24")
    assert (record["k"], record["ms"], record["statistic"], record["unit"]) == (6, 6.84, "median", "npu")
    assert (record["note"], record.get("threads")) == ("part of it ran on the CPU", None)
    results.write_text(json.dumps({**LITERT_JSON, "accelerators": ["CPU"], "num_threads": 4}))
    (record,) = taken(results, capsys, "--device", "rpi5")
    assert (record["unit"], record["threads"]) == ("cpu", 4)
    for change, told in (
        ({"accelerators": ["TPU"]}, "accelerators: ['TPU'] lists none of NPU, GPU and CPU"),
        ({"accelerators": 3}, "accelerators: 3 lists none"),
        ({"latency": 5}, "latency: is not a table"),
        ({"latency": {"median_ms": "6"}}, "latency.median_ms: 6 is not a number above 0"),
        ({"latency": {"median_ms": 6, "std_ms": -1}}, "latency.std_ms: -1 is not"),
    ):
        results.write_text(json.dumps({**LITERT_JSON, **change}))
        assert told in refused(results, capsys, "--device", "rpi5")


def test_executorch_s_benchmark_app_says_backend_and_quantization_in_a_name(results: Path, capsys: Capture) -> None:
    results.write_text(json.dumps(MINIBENCH))
    (record,) = taken(results, capsys, "--device", "galaxy-s24")
    assert (record["k"], record["ms"], record["statistic"], record["unit"]) == (6, 7.25, "mean", "npu")
    assert (record["runtime"], record["precision"], record["source"]) == (
        *("executorch", "int8"),
        "own-executorch-minibench",
    )
    apart = {"name": "vit", "backend": "xnnpack", "quantization": "fp32"}  # as the app takes a name of one word apart
    results.write_text(json.dumps([{**MINIBENCH[0], "benchmarkModel": apart}]))
    (record,) = taken(results, capsys, "--device", "galaxy-s24", "--heads", "3")
    assert (record["k"], record["unit"], record["precision"]) == (3, "cpu", "fp32")
    for change, told in (
        ({"benchmarkModel": {"name": "vit"}}, "[0].benchmarkModel: 'vit' does not state its backend"),
        ({"benchmarkModel": 7}, "[0].benchmarkModel: '' does not state its backend"),
        ({"actualValue": 0}, "[0].actualValue: 0 is not a number above 0"),
    ):
        results.write_text(json.dumps([{**MINIBENCH[0], **change}]))
        assert told in refused(results, capsys, "--device", "galaxy-s24")
    results.write_text("[]")
    assert "contains no known results" in refused(results, capsys, "--device", "galaxy-s24")
    results.write_text('[{"metric": ')
    assert "is not JSON" in refused(results, capsys, "--device", "galaxy-s24")


@pytest.mark.parametrize(
    ("asked", "unit", "threads", "precision"),
    [
        ("**CPU** thread=4** precision=2", "cpu", 4, "fp16"),
        ("CPU thread=1 precision=0 sparsity=0 sparseBlockOC=1 testQuantizedModel=1", "cpu", 1, "fp32"),
        ("OpenCL thread=4 precision=2 sparsity=0 sparseBlockOC=1 testQuantizedModel=1", "gpu", None, "fp16"),
    ],
)
def test_mnn_s_benchmark_gives_a_mean_for_each_model(
    results: Path, capsys: Capture, asked: str, unit: str, threads: int | None, precision: str
) -> None:
    results.write_text(MNN.format(asked=asked, name=f"{REFERENCE}-k6.mnn"))
    records = taken(results, capsys, "--device", "pixel7")
    assert [(r["ms"], r["precision"]) for r in records] == [(60.194, precision), (30.194, "int8")]
    assert {(r["k"], r["runtime"], r["unit"], r.get("threads")) for r in records} == {(6, "mnn", unit, threads)}
    results.write_text(MNN.format(asked="N/A thread=4 precision=2", name=f"{REFERENCE}-k6.mnn"))
    assert "Forward type: N/A is not one of CPU, Vulkan" in refused(results, capsys, "--device", "pixel7")
