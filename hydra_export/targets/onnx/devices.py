"""What runs ONNX files on devices; those that compile for one kind of chip take ONNX too."""

from hydra_export.target import DeviceRuntime

RUNTIMES = (
    DeviceRuntime(
        name="onnxruntime",
        usual={"Apple": 1, "Jetson": 1, "handheld": 1, "other": 0},
        reads_results=True,
        timed_by=("onnxruntime_perf_test",),
    ),
    DeviceRuntime(name="openvino", handheld=False, reads_results=True),
    DeviceRuntime(
        name="tensorrt",
        unit="gpu",
        maker="Jetson",
        usual={"Jetson": 0},
        reads_results=True,
        timed_by=("trtexec",),
        timers={"": "trtexec --onnx={stem}.onnx --fp16"},
    ),
    DeviceRuntime(name="qnn", unit="npu", maker="Qualcomm", reads_results=True),
    # Of these three the compilers quantize by images: Hailo's Dataflow Compiler, Pulsar2 and RKNN-Toolkit2.
    DeviceRuntime(
        name="hailort",
        unit="npu",
        maker="Hailo",
        cards=True,
        quantizes=True,
        timers={"": "hailortcli benchmark {stem}.hef"},
    ),
    DeviceRuntime(name="axengine", unit="npu", maker="Axera", cards=True, quantizes=True),
    DeviceRuntime(name="rknn", unit="npu", maker="Rockchip", quantizes=True),
    DeviceRuntime(name="ncnn", converts=True, reads_results=True, timed_by=("benchncnn",)),
    DeviceRuntime(name="mnn", converts=True, reads_results=True, timed_by=("MNN's benchmark",)),
    # Takes none of our files: its times, with its XNNPACK backend, are evidence.
    DeviceRuntime(
        name="executorch",
        kernels="XNNPACK",
        converts=True,
        handheld=False,
        reads_results=True,
        timed_by=("ExecuTorch's minibench",),
    ),
    DeviceRuntime(
        name="onnxruntime-web",
        browser={"onnxruntime-web": "onnxruntime-web"},
        timers={"": "hydra-export serve BUNDLE, opened on the device"},
    ),
)
