"""A thousand runs of ten nodes on four workers under fire: `python -m stargraph_torture.workers sqlite postgres dask`.

A worker is killed every five seconds, the clocks of two are ten minutes off, one run ends its process, the workers are
replaced by those of a new version meanwhile, and the store is away for half a minute. `dask` is a Dask cluster on a
SQLite store, whose workers are killed, and its scheduler once. Each is compared with one undisturbed worker process
that executes as many runs at once. It exits with 1 if a run is not done, or a node began again that the store had.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace

from stargraph_torture.folders import folder_in_memory
from stargraph_torture.seeds import SEED_VARIABLE, first_seed
from stargraph_torture.workers.battle import COLUMNS, Battle, BattlePlan, Report
from stargraph_torture.workers.grounds import GROUNDS


async def fight(name: str, plan: BattlePlan) -> Report:
    """Fight one battle on a kind of store.

    Args:
        name: the kind; `dask` for a Dask cluster on SQLite.
        plan: what is done to the fleet.
    """
    with folder_in_memory() as folder:
        async with GROUNDS["sqlite" if name == "dask" else name](folder) as (url, cut_off):
            if name == "dask":
                from stargraph_torture.workers.dask_battle import DaskBattle

                return await DaskBattle(folder, url, plan).play()
            return await Battle(folder, url, plan, cut_off).play()


def undisturbed(plan: BattlePlan) -> BattlePlan:
    """Return the plan of one process that executes the same runs, as many at once, and that nobody disturbs."""
    return replace(
        plan,
        workers=1,
        concurrency=plan.workers * plan.concurrency,
        kill_every=0.0,
        outage=0.0,
        has_poison=False,
        is_rolling=False,
    )


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", choices=[*GROUNDS, "dask"])
    parser.add_argument("--runs", type=int, default=1000, help="a tenth of them on s3")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=5.0)
    parser.add_argument("--outage", type=float, default=30.0)
    parser.add_argument("--silent-after", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=first_seed(), help=f"else {SEED_VARIABLE}")
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    rows = [("store", *COLUMNS, "undisturbed s", "time ratio", "CPU ratio")]
    violations: list[str] = []
    for name in options.stores:
        plan = BattlePlan(
            seed=options.seed,
            runs=options.runs if name != "s3" else options.runs // 10,
            workers=options.workers,
            # A worker has to come so far that it executes something.
            kill_every=options.kill_every if name != "s3" else options.kill_every * 3,
            outage=options.outage,
            silent_after=options.silent_after,
            node_seconds=0.05,
            deadline=1800,
        )
        calm = asyncio.run(fight("sqlite" if name == "dask" else name, undisturbed(plan)))
        report = asyncio.run(fight(name, plan))
        compared = (f"{calm.seconds:.1f}", f"{report.seconds / calm.seconds:.2f}", f"{report.cpu / calm.cpu:.2f}")
        rows.append((name, *report.row(), *compared))
        violations += [f"{name}: {each}" for each in (*calm.violations, *report.violations)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))
    for violation in violations[:40]:
        print(violation)
    print(f"{len(violations)} promises broken")
    return int(bool(violations))


if __name__ == "__main__":
    sys.exit(main())
