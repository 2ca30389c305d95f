"""The picture: seconds of every phase, as bars on a logarithmic scale, losses included.

Belongs here: drawing. Does not belong here: numbers that are not in the results.
"""

from pathlib import Path
from typing import Any

from tests.bench.contenders import CONTENDERS
from tests.bench.report import BACKENDS, PHASE_TITLES, groups, store_of

_COLOURS = {"ours": "#2563eb", "langchain": "#16a34a", "llamaindex": "#f59e0b"}
_WRONG = "#dc2626"

#: Where the bars begin, in seconds: a logarithmic scale has no zero.
_FLOOR = 0.01


def draw(measured: dict[str, Any], path: Path) -> None:
    """One panel per corpus and embedder; a bar whose store was wrong afterwards says so."""
    import matplotlib

    matplotlib.use("Agg")  # no window, wherever this runs
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    panels = groups(measured["results"])
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(10, 3.6 * len(panels)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, ((corpus, backend), results) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(axis, results)
        documents = max(result["documents"] for result in results)
        chunks = max((r["truth"]["wanted"] for r in results if r["truth"]), default=0)
        axis.set_title(
            f"{corpus}: {documents:,} documents, about {chunks:,} chunks; "
            f"embedder: {BACKENDS[backend]}",
            loc="left",
            fontsize=11,
        )
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylim(_FLOOR, axes[0, 0].get_ylim()[1] * 5)  # room for what stands above the bars
    axes[0, 0].set_xticks(range(len(PHASE_TITLES)), list(PHASE_TITLES.values()))
    handles = [Patch(color=_COLOURS[c.name], label=c.title) for c in CONTENDERS.values()]
    axes[0, 0].legend(handles=handles, loc="upper right", frameon=False, ncols=len(handles))
    machine = measured["machine"]
    figure.suptitle("Keeping a Weaviate index in step: seconds a sync takes", fontsize=13)
    figure.supxlabel(
        f"{machine['cpus']} × {machine['cpu']}; {measured['measured_at'][:10]}"
        f"{'; a tenth of the corpora' if measured['quick'] else ''}",
        fontsize=9,
        color="#555555",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _panel(axis: Any, results: list[dict[str, Any]]) -> None:
    width, phases = 0.8 / len(CONTENDERS), list(PHASE_TITLES)
    for number, contender in enumerate(CONTENDERS):
        for result in results:
            if result["contender"] != contender or not result["cost"]:
                continue
            place = phases.index(result["phase"]) + (number - 1) * width
            seconds = result["cost"]["wall_seconds"]
            wrong = store_of(result) != "right"
            axis.bar(place, seconds, width * 0.92, color=_COLOURS[contender])
            axis.annotate(
                _label(seconds, store_of(result) if wrong else ""),
                (place, max(seconds, _FLOOR)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=_WRONG if wrong else "black",
            )
    axis.set_ylabel("seconds")
    axis.grid(axis="y", which="major", color="#dddddd")
    axis.set_axisbelow(True)
    axis.tick_params(labelbottom=True)
    axis.spines[["top", "right"]].set_visible(False)


def _label(seconds: float, wrong: str) -> str:
    """Seconds, and what is wrong with the store, in lines as narrow as a bar."""
    value = f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.2g} s"
    return "\n".join([value, *wrong.removeprefix("WRONG: ").split()])
