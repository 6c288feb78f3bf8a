"""`stargraph ui`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stargraph.cli._options import DEFAULT_CHECKPOINT, GRAPH_HELP, STORE_ARGUMENT, StoreArgument
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from stargraph.cli._store import StoreRef

ENTRY_POINT_GROUP: Final = "stargraph.ui"
"""The functions of the package with the pages: `serve`, and `page` for `inspect --html`."""


def ui(
    store: StoreArgument = DEFAULT_CHECKPOINT,
    graph: Annotated[
        list[str] | None, typer.Option("--graph", metavar="GRAPH", help=f"{GRAPH_HELP} Its runs can be executed here.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Also offer actions that change runs; without it, the store is only read.")
    ] = False,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0 for a free one.")] = 0,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open", help="Open the pages in a browser.")] = False,
) -> None:
    """Show the runs of a store in a browser, live, until Ctrl-C. Nothing leaves this machine.

    The link that is printed works once, for one browser; each use prints another one.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._output import clean, print_lines
    from stargraph.cli._store import StoreRef

    serve = load_page_function("serve")
    run_async(_look_into(StoreRef(store, named_by=STORE_ARGUMENT)))
    serve(
        store,
        graphs=graph or (),
        write=write,
        host=host,
        port=port,
        open_browser=open_,
        say=lambda line: print_lines([clean(line)]),
    )


async def _look_into(ref: StoreRef) -> None:
    """Refuse a store that is not there, or a wrong name of one, before a link to its pages is printed."""
    async with ref.opened("read"):
        pass


def load_page_function(name: str) -> Any:
    """Return a function of the package with the pages.

    Args:
        name: `serve` or `page`.

    Raises:
        StargraphError: the package is not installed (`reason="ui-not-installed"`).
    """
    from importlib.metadata import entry_points

    found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        raise StargraphError(
            "the pages are a package of their own, which is not installed",
            reason="ui-not-installed",
            hint="Install it: pip install stargraph-ui",
        )
    return found[0].load()
