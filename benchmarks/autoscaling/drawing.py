"""The replicas that each rule asked for, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.autoscaling.scenarios import HOUR, Scenario
from benchmarks.autoscaling.simulation import Outcome

_COLOURS: Final = {
    "ours": "#1b6ca8",
    "fixed": "#999999",
    "queue_depth": "#d1495b",
    "gpu_utilisation": "#edae49",
    "clairvoyant": "#66a182",
}
_MOST_POINTS: Final = 288


def draw(found: Mapping[str, tuple[Scenario, Mapping[str, Outcome]]], path: Path) -> None:
    """Write one panel a scenario; the same figures give the same bytes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evalfleet", "font.size": 8}):
        figure, panels = pyplot.subplots(len(found), 1, figsize=(8, 1.9 * len(found)), layout="constrained")
        for panel, (scenario, outcomes) in zip(panels, found.values(), strict=True):
            for name, outcome in outcomes.items():
                every = max(1, len(outcome.replicas) // _MOST_POINTS)
                hours = [minute * 60 / HOUR for minute in range(0, len(outcome.replicas), every)]
                is_ours = name == "ours"
                panel.step(
                    hours,
                    outcome.replicas[::every],
                    where="post",
                    color=_COLOURS[name],
                    linewidth=1.8 if is_ours else 0.9,
                    zorder=3 if is_ours else 2,
                    label=name.replace("_", " "),
                )
            outage = scenario.metrics_outage
            if outage.begins_at < scenario.seconds:
                panel.axvspan(outage.begins_at / HOUR, outage.ends_at / HOUR, color="#000000", alpha=0.08, linewidth=0)
            panel.set_title(scenario.title, loc="left", fontsize=8)
            panel.set_ylabel("replicas")
            panel.set_ylim(bottom=0)
            panel.margins(x=0)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, ncols=len(names), loc="outside upper right", fontsize=8, frameon=False)
        panels[-1].set_xlabel("hours")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(figure)
