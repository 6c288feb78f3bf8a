"""`stargraph migrate`."""

from __future__ import annotations

from stargraph.cli._options import DEFAULT_CHECKPOINT, STORE_ARGUMENT, JsonOption, KeysOption, StoreArgument
from stargraph.cli._output import print_json, print_lines


def migrate(
    store: StoreArgument = DEFAULT_CHECKPOINT, encryption_keys: KeysOption = None, json: JsonOption = False
) -> None:
    """Make the store PATH_OR_URL if it does not exist, and bring an older one to the current format.

    Safe to repeat, and to run from several processes at once. Runs do not change: to carry one over to a newer graph,
    write a migrate block into that graph, and resume the run.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    ref = StoreRef(store, encryption_keys, STORE_ARGUMENT)

    async def bootstrap() -> None:
        async with ref.opened("create"):
            pass

    run_async(bootstrap())
    if json:
        print_json({"store": str(ref), "ready": True})
    else:
        print_lines([f"store {ref} is ready"])
