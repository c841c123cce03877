"""The steps that a child can run, by name: each takes one case (plain values) and gives its record."""

from collections.abc import Callable
from typing import Any

from img_deploy.benchmarks.on_gpu.ceilings import ceiling
from img_deploy.benchmarks.on_gpu.device import Device
from img_deploy.benchmarks.on_gpu.holding import profile_ours
from img_deploy.benchmarks.on_gpu.kernel_inputs import FORMS, KernelCase
from img_deploy.benchmarks.on_gpu.kernel_steps import check, time_compiled, time_kernel
from img_deploy.benchmarks.on_gpu.network_steps import NetworkCase, accuracy, time_network
from img_deploy.benchmarks.on_gpu.recurrence import RecurrenceCase, time_recurrence

Step = Callable[[dict[str, Any], Device], Any]

STEPS: dict[str, Step] = {
    "ceilings": lambda case, device: ceiling(case["name"], device),
    "checks": lambda case, device: check(case["op"], case["dtype"], FORMS[case["op"]], device),
    "kernels": lambda case, device: time_kernel(KernelCase(**case), device),
    "compiled_kernels": lambda case, device: time_compiled(KernelCase(**case), device),
    "recurrence": lambda case, device: time_recurrence(RecurrenceCase(**case), device),
    "accuracy": lambda case, device: accuracy(case["precision"], device),
    "network": lambda case, device: time_network(NetworkCase(**case), device),
    "compiled_network": lambda case, device: time_network(NetworkCase(**case), device),
    "profile": lambda case, device: profile_ours(NetworkCase(**case), device),
}
