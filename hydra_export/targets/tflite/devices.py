"""What runs TFLite files on devices."""

from hydra_export.target import DeviceRuntime

_TIMER = "adb shell /data/local/tmp/benchmark_model --graph=/data/local/tmp/{stem}.tflite "

RUNTIMES = (
    DeviceRuntime(
        name="litert",
        kernels="XNNPACK",  # its default delegate
        usual={"handheld": 0, "other": 1},
        reads_results=True,
        timed_by=("benchmark_model", "benchmark_litert_model"),
        timers={"npu": f"{_TIMER}--external_delegate_path=libQnnTFLiteDelegate.so", "": f"{_TIMER}--num_threads=4"},
        timer_classes=("phone",),
    ),
    DeviceRuntime(
        name="litert-web",
        browser={"@litertjs/core": "litert", "@litertjs/wasm-utils": "litert-wasm-utils"},
        timers={"": "hydra-export serve BUNDLE, opened on the device"},
    ),
)
