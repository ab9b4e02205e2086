"""What runs Core ML packages on devices."""

from hydra_export.target import DeviceRuntime

RUNTIMES = (
    DeviceRuntime(
        name="coreml",
        unit="npu",
        maker="Apple",
        usual={"Apple": 0},
        timers={"": "open {stem}.mlpackage in Xcode and make a performance report on the device"},
    ),
)
