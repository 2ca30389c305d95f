"""The picture: seconds of every phase, as bars on a logarithmic scale, losses included.

Belongs here: drawing. Does not belong here: numbers that are not in the results.
"""

from pathlib import Path
from typing import Any

from tests.bench.contenders import CONTENDERS
from tests.bench.report import PHASE_TITLES, groups, store_of

_COLOURS = {"ours": "#2563eb", "langchain": "#16a34a", "llamaindex": "#f59e0b"}
_WRONG = "#dc2626"


def draw(measured: dict[str, Any], path: Path) -> None:
    """One panel per corpus and embedder; a bar whose store was wrong afterwards says so."""
    import matplotlib

    matplotlib.use("Agg")  # no window, wherever this runs
    from matplotlib import pyplot

    panels = groups(measured["results"])
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(10, 3.6 * len(panels)), squeeze=False, layout="constrained"
    )
    for axis, ((corpus, backend), results) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(axis, results)
        documents = max(result["documents"] for result in results)
        chunks = max((r["truth"]["wanted"] for r in results if r["truth"]), default=0)
        axis.set_title(
            f"{corpus}: {documents:,} documents, about {chunks:,} chunks; embedder: {backend}",
            loc="left",
            fontsize=11,
        )
    axes[0, 0].legend(loc="upper right", frameon=False, ncols=len(CONTENDERS))
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
    width = 0.8 / len(CONTENDERS)
    phases = [name for name in PHASE_TITLES if any(r["phase"] == name for r in results)]
    for number, contender in enumerate(CONTENDERS.values()):
        measured = [r for r in results if r["contender"] == contender.name and r["cost"]]
        if not measured:
            continue
        places = [phases.index(r["phase"]) + (number - 1) * width for r in measured]
        seconds = [r["cost"]["wall_seconds"] for r in measured]
        axis.bar(
            places, seconds, width * 0.92, color=_COLOURS[contender.name], label=contender.title
        )
        for place, value, result in zip(places, seconds, measured, strict=True):
            wrong = store_of(result) != "right"
            axis.annotate(
                f"{value:,.3g}" + ("\nstore\nwrong" if wrong else ""),
                (place, value),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=_WRONG if wrong else "black",
            )
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * 6)  # room for what stands above the bars
    axis.set_xticks(range(len(phases)), [PHASE_TITLES[name] for name in phases])
    axis.set_ylabel("seconds")
    axis.grid(axis="y", which="major", color="#dddddd")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
