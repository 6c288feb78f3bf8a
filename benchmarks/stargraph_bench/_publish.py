"""The published form of a measurement: the report inside docs/performance.md, and its plots beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from stargraph_bench._figures import Figures, times
from stargraph_bench._report import STORES

_MARKS: Final = ("<!-- {}: begin -->", "<!-- {}: end -->")

_COLOURS: Final = {
    "stargraph": "#1b6ca8",
    "langgraph": "#d1495b",
    "langgraph-delta": "#edae49",
    "dbos": "#66a182",
    "burr": "#8d6a9f",
    "raw": "#9a9a9a",
}

_WRITING: Final = ("small", "chat", "big-edit", "fan")


def publish(figures: Figures, overview: str, report: str, docs: Path) -> None:
    """Put what was measured and its plots into the documents.

    Args:
        figures: what was measured.
        overview: what a user gets, in Markdown.
        report: all of it, in Markdown.
        docs: the folder of the documents; `performance.md` in it says where they go.
    """
    folder = docs / "performance"
    images = [f"![{title}]({folder.name}/{name})" for name, title in draw(figures, folder).items()]
    page = docs / "performance.md"
    insert(overview, page, "overview")
    insert("\n\n".join([report.strip(), *images]), page, "measured")


def draw(figures: Figures, folder: Path) -> dict[str, str]:
    """Draw what was measured into a folder; return the titles of the plots by their files' names."""
    folder.mkdir(exist_ok=True)
    titles = {}
    for store, called in STORES.items():
        for name, label in (("rate", "steps a second"), ("bytes", "bytes of the store")):
            if _bars(figures, store, name, label, folder / f"{store}-{name}.svg"):
                titles[f"{store}-{name}.svg"] = f"{called}: {label}, each divided by LangGraph's"
    for workload, label in (("growth", "checkpoints in the store"), ("length", "steps of the run")):
        if _lines(figures, workload, label, folder / f"{workload}.svg"):
            titles[f"{workload}.svg"] = f"{workload.capitalize()}: over the {label}"
    return titles


def insert(text: str, page: Path, name: str) -> None:
    """Put a text between the marks of a name on a page."""
    begin, end = (mark.format(name) for mark in _MARKS)
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page.name} has no {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def _bars(figures: Figures, store: str, name: str, label: str, path: Path) -> bool:
    """Draw a measure of every contender divided by LangGraph's, for each workload; tell whether there were any."""
    workloads = [one for one in _WRITING if figures.spread(f"{store}/{one}/langgraph/{name}")]
    if not workloads:
        return False
    with _figure(path, len(workloads)) as axes:
        for axis, workload in zip(axes, workloads, strict=True):
            contenders = [
                one for one in figures.contenders(store, workload) if figures.spread(f"{store}/{workload}/{one}/{name}")
            ]
            for place, contender in enumerate(contenders):
                ratio = figures.ratio(f"{store}/{workload}/{contender}/{name}", f"{store}/{workload}/langgraph/{name}")
                assert ratio is not None
                axis.bar(place, ratio.median - 1, bottom=1, color=_COLOURS[contender], width=0.8)
                axis.vlines(place, ratio.low, ratio.high, color="#222222", linewidth=1)
                axis.annotate(times(ratio.median), (place, ratio.high), ha="center", va="bottom", fontsize=7)
            axis.set_yscale("log")
            axis.set_title(workload, fontsize=10)
            axis.set_xticks(range(len(contenders)), contenders, rotation=60, ha="right", fontsize=8)
            axis.margins(y=0.12)
        axes[0].set_ylabel(f"{label}, LangGraph = 1", fontsize=9)
    return True


def _lines(figures: Figures, workload: str, label: str, path: Path) -> bool:
    """Draw the measures of a workload that have a size, over the size; tell whether there were any."""
    found = [address.split("/") for address in figures.values if address.split("/")[1] == workload and "@" in address]
    kinds = list(dict.fromkeys(name.partition("@")[0] for *_, name in found))
    if not kinds:
        return False
    with _figure(path, len(kinds)) as axes:
        for axis, kind in zip(axes, kinds, strict=True):
            for store, contender in dict.fromkeys((parts[0], parts[2]) for parts in found):
                points = [
                    (int(name.partition("@")[2]), figures.values[f"{store}/{workload}/{contender}/{name}"][0])
                    for *who, name in found
                    if who == [store, workload, contender] and name.startswith(f"{kind}@")
                ]
                style = "-" if store == "sqlite" else "--"
                axis.plot(
                    *zip(*points, strict=True),
                    style,
                    marker="o",
                    markersize=3,
                    color=_COLOURS[contender],
                    label=f"{contender}, {store}",
                )
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel(label, fontsize=9)
            axis.set_title(_KINDS[kind], fontsize=10)
        axes[0].legend(fontsize=7)
    return True


_KINDS: Final = {
    "write_ms": "a write, ms",
    "latest_ms": "read the latest, ms",
    "list_ms": "list 100, ms",
    "ms_a_step": "a write, ms",
    "bytes_a_step": "bytes a step",
}


class _figure:  # noqa: N801  # used like a function
    """Axes side by side, drawn to an SVG file that is the same for the same figures."""

    def __init__(self, path: Path, columns: int) -> None:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        mpl.rcParams.update({"svg.hashsalt": path.name, "svg.fonttype": "none", "font.family": "sans-serif"})
        self._path = path
        self._figure: Any = Figure(figsize=(2.6 * columns + 0.6, 3.2), layout="constrained")
        self._axes: Any = self._figure.subplots(1, columns, squeeze=False)

    def __enter__(self) -> Sequence[Any]:
        axes: Sequence[Any] = list(self._axes[0])
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
        return axes

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._figure.savefig(self._path, format="svg", metadata={"Date": None})
