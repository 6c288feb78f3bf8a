"""What a step costs between a node's return and the driver's statement, and back: CPU time of each stage alone.

    PYTHONPATH=benchmarks python benchmarks/record_path.py [workload …]

Each figure is the median over the steps of a run, in microseconds of process time, so that a busy machine blurs it
little. "make" is `EncodedValue.of` of what changed and `Checkpoint.next`, "encode" is `Codec.encode`, "decode" is
`Codec.decode_latest` of the last step, and "values" the same with every value of the state looked at.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

from stargraph.checkpoint.codec import Codec, missing_base_steps
from stargraph.checkpoint.protocol import Checkpoint
from stargraph_bench._runs import Maker, big_edit, chat, huge_edit, make_run, small
from stargraph_bench._stargraph import checkpoints

_WORKLOADS: Final[dict[str, tuple[Maker, int]]] = {
    "small": (small, 1000),
    "chat": (chat, 200),
    "2 MB edit": (big_edit, 40),
    "20 MB, a number changes": (huge_edit, 10),
}
_READS: Final = 0.5  # seconds of reading, and at least ten reads

_FIRST_READ: Final = """
import time
from stargraph.checkpoint.codec import Codec, decode, encode
from stargraph.checkpoint.protocol import Checkpoint
record = bytes.fromhex({record!r})
begun = time.process_time()
decode(record, run_id={run_id!r}, step=0)
print((time.process_time() - begun) * 1e6)
"""


def main() -> None:
    """Measure the workloads that are named, or all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workloads", nargs="*", default=list(_WORKLOADS))
    workloads = parser.parse_args().workloads
    if unknown := set(workloads) - set(_WORKLOADS):
        parser.error(f"unknown workloads {sorted(unknown)}: choose from {', '.join(_WORKLOADS)}")
    print("| workload | make, µs | encode, µs | largest, µs | decode, µs | values, µs | bytes a step |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in workloads:
        make, steps = _WORKLOADS[name]
        print(f"| {name} | {' | '.join(_measure(make, steps))} |", flush=True)
    print(f"\nFirst read of a process: {_first_read():.0f} µs.")


def _measure(make: Maker, steps: int) -> list[str]:
    run = make_run(make, steps, 1)
    codec = Codec()
    made, encoded = [], []
    stored: dict[int, bytes] = {}
    begun = time.process_time()
    for checkpoint in checkpoints(run):
        built = time.process_time()
        record = codec.encode(checkpoint)
        done = time.process_time()
        codec.appended(record)
        made.append(built - begun)
        encoded.append(done - built)
        stored[checkpoint.step] = record.data
        begun = time.process_time()
    last = max(stored)
    records = {last: stored[last]}
    while missing := missing_base_steps(records, run_id=run.run_id, steps=[last]):
        records |= {step: stored[step] for step in missing}

    def read() -> Checkpoint:
        return codec.decode_latest(records, run_id=run.run_id, step=last)

    return [
        _micros(statistics.median(made[1:])),
        _micros(statistics.median(encoded[1:])),
        _micros(max(encoded[1:])),
        _micros(_repeated(read)),
        _micros(_repeated(lambda: [value for _, value in read().state.items()])),
        f"{sum(map(len, stored.values())) / steps:.0f}",
    ]


def _repeated(work: Callable[[], object]) -> float:
    took: list[float] = []
    end = time.perf_counter() + _READS
    while len(took) < 10 or time.perf_counter() < end:
        begun = time.process_time()
        work()
        took.append(time.process_time() - begun)
    return statistics.median(took)


def _first_read() -> float:
    run = make_run(small, 1, 1)
    (checkpoint,) = checkpoints(run)
    source = _FIRST_READ.format(record=Codec().encode(checkpoint).data.hex(), run_id=run.run_id)
    took = [
        float(subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True).stdout)
        for _ in range(5)
    ]
    return statistics.median(took)


def _micros(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}"


if __name__ == "__main__":
    main()
