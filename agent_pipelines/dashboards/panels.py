"""The one way panels look here: a question as title, an explanation, queries, and a target as line.

Belongs here: looks. Does not belong here: any query.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    VisibilityMode,
)

#: Chosen in a list at the top of each dashboard: no name of anybody's data source is in here.
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

_GOOD, _BAD, _UNKNOWN = "green", "red", "orange"
_HEIGHT = 8

Panel = Builder[model.Panel]


@dataclass(frozen=True)
class Target:
    """What a number should be: at least, or at most, this."""

    value: float
    wanted: Literal["below", "above"]

    @property
    def thresholds(self) -> dashboard.ThresholdsConfig:
        first, then = (_GOOD, _BAD) if self.wanted == "below" else (_BAD, _GOOD)
        return (
            dashboard.ThresholdsConfig()
            .mode(model.ThresholdsMode.ABSOLUTE)
            .steps([model.Threshold(color=first), model.Threshold(value=self.value, color=then)])
        )


#: Something that should not be there at all.
NONE = Target(1, "below")


def queries(by_legend: Mapping[str, str], *, instant: bool = False) -> list[prometheus.Dataquery]:
    """PromQL by its legend; what a legend has in braces is a label."""
    made = []
    for number, (legend, expression) in enumerate(by_legend.items()):
        query = prometheus.Dataquery().expr(expression).legend_format(legend)
        query = query.ref_id(chr(ord("A") + number))
        made.append(query.instant() if instant else query.range())
    return made


def series(
    title: str,
    why: str,
    by_legend: Mapping[str, str],
    *,
    unit: str,
    target: Target | None = None,
    span: int = 12,
) -> Panel:
    """Lines over time, with the target as a dashed line."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(why)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(_HEIGHT)
        .min(0)
        .line_width(2)
        .fill_opacity(8)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for query in queries(by_legend):
        panel = panel.with_target(query)
    if target is None:
        return panel
    style = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
    return panel.thresholds(target.thresholds).thresholds_style(style)


def number(
    title: str,
    why: str,
    expression: str,
    *,
    unit: str,
    target: Target | None = None,
    legend: str = "",
    span: int = 4,
) -> Panel:
    """What it is now, large, and green or red where there is a target."""
    panel = (
        stat.Panel()
        .title(title)
        .description(why)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(4)
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND if target else BigValueColorMode.VALUE)
    )
    for query in queries({legend: expression}, instant=True):
        panel = panel.with_target(query)
    return panel.thresholds(target.thresholds) if target else panel


def states(
    title: str,
    why: str,
    by_legend: Mapping[str, str],
    *,
    named: Sequence[tuple[int, str, Literal["good", "bad", "unknown"]]],
    span: int = 24,
    height: int = 14,
) -> Panel:
    """Bars of states over time; ``named`` gives each value its word and whether that is good."""
    colours = {"good": _GOOD, "bad": _BAD, "unknown": _UNKNOWN}
    words = {
        str(value): model.ValueMappingResult(text=word, color=colours[kind], index=index)
        for index, (value, word, kind) in enumerate(named)
    }
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(why)
        .datasource(SOURCE)
        .span(span)
        .height(height)
        .show_value(VisibilityMode.NEVER)
        .row_height(0.8)
        .merge_values(True)
        .mappings([model.ValueMap(options=words)])
    )
    for query in queries(by_legend):
        panel = panel.with_target(query)
    return panel


def choice(label: str, metric: str) -> dashboard.QueryVariable:
    """A list at the top: the values of a label that this metric has, several of them at once."""
    return (
        dashboard.QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def board(
    uid: str,
    title: str,
    why: str,
    rows: Mapping[str, Sequence[Panel]],
    *,
    choices: Sequence[dashboard.QueryVariable] = (),
) -> model.Dashboard:
    """A dashboard of rows, with the list of data sources and links to its siblings."""
    made = (
        dashboard.Dashboard(title)
        .uid(f"agent-pipelines-{uid}")
        .description(why)
        .tags(["agent-pipelines"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Data"))
        .link(
            dashboard.DashboardLink("agent-pipelines")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["agent-pipelines"])
            .as_dropdown(True)
            .keep_time(True)
        )
    )
    for variable in choices:
        made = made.with_variable(variable)
    for row, panels in rows.items():
        made = made.with_row(dashboard.Row(row))
        for panel in panels:
            made = made.with_panel(panel)
    built = made.build()
    for number, drawn in enumerate(built.panels or [], start=1):
        drawn.id_val = number  # links to a panel hold on to it
    return built
