"""A thousand runs of ten nodes on four workers under fire: `python -m stargraph_torture.workers sqlite postgres`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from stargraph_torture.folders import folder_in_memory
from stargraph_torture.seeds import SEED_VARIABLE, first_seed
from stargraph_torture.workers.battle import Battle, BattlePlan, Report
from stargraph_torture.workers.grounds import GROUNDS


async def fight(name: str, plan: BattlePlan) -> Report:
    """Fight one battle on a kind of store.

    Args:
        name: the kind.
        plan: what is done to the fleet.
    """
    with folder_in_memory() as folder:
        async with GROUNDS[name](folder) as (url, cut_off):
            return await Battle(folder, url, plan, cut_off).play()


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+", choices=[*GROUNDS])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=5.0)
    parser.add_argument("--outage", type=float, default=30.0)
    parser.add_argument("--silent-after", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=first_seed(), help=f"else {SEED_VARIABLE}")
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    failed = False
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
        report = asyncio.run(fight(name, plan))
        print(f"{name}: {report.summary()}")
        for violation in report.violations[:20]:
            print(f"  {violation}")
        failed = failed or bool(report.violations)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
