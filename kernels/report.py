"""Registers, spills and shared memory of every kernel on every GPU: ``python -m img_deploy.kernels.report``."""

import argparse
from collections.abc import Iterable, Iterator

from img_deploy.kernels.aot import CAPABILITIES, Resources, cases, resources, with_kernel
from img_deploy.kernels.dispatch import OP_NAMES

HEADER = ("op", "variant", "sizes", "dtype", "sm", "warps", "registers", "spill B", "shared B", "PTX", "scratch B")


def measure(ops: Iterable[str] = (), capabilities: Iterable[int] = CAPABILITIES) -> Iterator[Resources]:
    """Compile every case of the ops (all of them without any) and yield what it uses, one by one."""
    capabilities = tuple(capabilities)
    for op in tuple(ops) or with_kernel():
        for case in cases(op):
            for dtype in case.dtypes:
                for capability in capabilities:
                    yield resources(case, dtype, capability)


def row(used: Resources) -> tuple[str, ...]:
    """One line of the table, in the order of ``HEADER``."""
    values = (
        *(used.op, used.variant, used.sizes, used.dtype, used.capability, used.num_warps),
        *(used.registers, used.spill_bytes, used.shared_bytes, used.ptx_isa, used.scratch_bytes),
    )
    return tuple(str(value) for value in values)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compile the Triton kernels ahead of time and print what they use.")
    parser.add_argument("ops", nargs="*", help=f"ops to compile (all of them without any): {', '.join(OP_NAMES)}")
    parser.add_argument("--sm", nargs="*", type=int, default=list(CAPABILITIES), help="compute capabilities, e.g. 90")
    options = parser.parse_args(arguments)
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|")
    for used in measure(options.ops, options.sm):
        print("| " + " | ".join(row(used)) + " |", flush=True)


if __name__ == "__main__":
    main()
