"""Members that differ in seeds alone, together: one configuration, with means over its seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from compressor.report.headline import headline_of
from compressor.report.latencies import is_steady, is_unsteady
from compressor.report.members import is_seed, number
from compressor.report.metrics import Metric
from compressor.report.sentences import unequal
from compressor.report.statistics import estimate, front, paired

INERT = "-"  # the value of an option that does nothing here: prune.ratio beside prune=none
# Groups that pose the question; accuracies under different ones share no Pareto front.
_PROBLEM = ("dataset", "noise", "task")
COSTS = ("macs", "latency_ms")

_Figure = Callable[[Mapping[str, Any]], float | None]


def configured(fields: Iterable[str]) -> list[str]:
    """The swept fields without the seeds."""
    return [field for field in fields if not is_seed(field)]


def configurations(
    rows: Sequence[Mapping[str, Any]], fields: Sequence[str], metric: Metric | None
) -> list[dict[str, Any]]:
    """One entry per configuration, in the order of its first member.

    An entry: {"fields", "members", "n": seeds that are done, "failed", "unfinished", "repeated":
    members beyond one a seed, "series": what its colour stands for, "problem", "values" and
    "dense_values": the metric by seed, estimates of "value", "change" (paired with each member's
    own dense network), "headline", "balanced_accuracy", "macro_f1", "unequal": whether a class has
    more than twice another's images, "loss", "macs", "params", "latency_ms", the three ratios and
    "unscaled_ratio" (MACs over those of the model before `scale`), "latency_span": the 95 %
    interval of the latency's ratio, "steady", "steady_ms": whether that and the milliseconds are so
    in every seed, "unsteady": whether the metric itself is a latency that is not, "forms": sizes of
    its dense networks}.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    inert = _inert(rows, fields)
    for row in rows:
        key = tuple(
            INERT if (row["member"], field) in inert else row["swept"][field]
            for field in configured(fields)
        )
        groups.setdefault(key, []).append(row)
    found = [
        _configuration(dict(zip(configured(fields), key, strict=True)), members, metric)
        for key, members in groups.items()
    ]
    return found


def mark_fronts(
    configured_: Sequence[dict[str, Any]], dense: Mapping[str, dict[str, Any]], metric: Metric
) -> None:
    """Set "front" of configurations and dense networks: the costs at which nothing beats them.

    And "latency_cost": what their latencies are compared by, None of one that takes no part.
    """
    costs = [cost for cost in COSTS if not is_cost(metric, cost)]
    every = [*configured_, *dense.values()]
    for entry in every:
        entry["front"] = []
    for problem in dict.fromkeys(entry["problem"] for entry in every):
        rivals = [entry for entry in every if entry["problem"] == problem]
        latencies = latency_costs(rivals)
        for entry, (value, _) in zip(rivals, latencies, strict=True):
            entry["latency_cost"] = value
        for cost in costs:
            costed = [(mean(entry[cost]), None) for entry in rivals]
            if cost == "latency_ms":
                costed = latencies
            points = [
                (value, _gain(mean(entry["value"]), metric.higher))
                for entry, (value, _) in zip(rivals, costed, strict=True)
            ]
            spans = [span for _, span in costed]
            for entry, best in zip(rivals, front(points, spans), strict=True):
                if best:
                    entry["front"].append(cost)


def is_cost(metric: Metric, cost: str) -> bool:
    """Whether the metric is that very cost: one is not set against itself."""
    figure = metric.figure.split(".")[0]
    return figure == cost or (cost == "latency_ms" and figure == "latency_ratio")


def one_form(entries: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all came of dense networks of one size: ratios to these can be compared."""
    return len({form for entry in entries for form in entry["forms"]}) == 1


def latency_costs(
    entries: Sequence[Mapping[str, Any]],
) -> list[tuple[float | None, tuple[float, float] | None]]:
    """(cost, interval) of each: ratios to one dense network, milliseconds where there are several.

    None for what is unsteady: nothing is concluded from it. A dense network is 1.0 of itself on
    any machine: where all that was cut is unsteady, none has a cost, or dense were the fastest.
    """
    by_ratio, found = one_form(entries), []
    cut = [e for e in entries if e["latency_ratio"] and e["latency_span"] != (1.0, 1.0)]
    if cut and not any(entry["steady"] for entry in cut):
        return [(None, None)] * len(entries)
    for entry in entries:
        ratio, span = mean(entry["latency_ratio"]), entry["latency_span"]
        steady = entry["steady"] and (by_ratio or entry["steady_ms"])
        if ratio is None or span is None or not steady:
            found.append((None, None))
        else:
            scale = 1.0 if by_ratio else mean(entry["latency_ms"]) / ratio
            found.append((scale * ratio, (scale * span[0], scale * span[1])))
    return found


def dense_networks(
    configured_: Sequence[Mapping[str, Any]], metric: Metric | None
) -> dict[str, dict[str, Any]]:
    """Dense networks of the sweep, each seed's once: {name: {"value", costs, "problem"}}."""
    groups: list[tuple[list[str], dict[str, Mapping[str, Any]], str]] = []
    for entry in sorted(configured_, key=lambda entry: -len(entry["dense_networks"])):
        networks = entry["dense_networks"]
        if not networks:
            continue
        name = describe(entry["fields"])
        # a configuration with failed seeds shares the dense networks of its siblings
        home = next((group for group in groups if networks.keys() <= group[1].keys()), None)
        if home is None:
            groups.append(([name], dict(networks), entry["problem"]))
        else:
            home[0].append(name)
    found: dict[str, dict[str, Any]] = {}
    for names, networks, problem in groups:
        label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        found["all configurations" if len(groups) == 1 else label] = {
            "problem": problem,
            "value": estimate(_number(point, metric.figure) for point in networks.values())
            if metric
            else None,
            "macs": estimate(_number(point, "macs") for point in networks.values()),
            "params": estimate(_number(point, "params") for point in networks.values()),
            **_latency(
                lambda figure, networks=networks: estimate(
                    _number(point, figure) for point in networks.values()
                ),
                list(networks.values()),
            ),
            "forms": _forms(networks.values()),
        }
    return {name: entry for name, entry in found.items() if entry["value"]}


def describe(fields: Mapping[str, str], nothing: str = "the final network") -> str:
    """A configuration in words: "thinet at prune.ratio=0.3", "resnet20 thinet"."""
    # what a group was set to speaks for itself, what an option was set to does not
    words = [value for field, value in fields.items() if _speaks(field, value)]
    options = [
        f"{field}={value}"
        for field, value in fields.items()
        if not _speaks(field, value) and value != INERT
    ]
    if not words:
        return " ".join(options) or nothing
    return " ".join(words) + (f" at {' '.join(options)}" if options else "")


def mean(value: Mapping[str, Any] | None) -> float | None:
    return value["mean"] if value else None


# -- one configuration --------------------------------------------------------------------------


def _configuration(
    fields: dict[str, str], members: Sequence[Mapping[str, Any]], metric: Metric | None
) -> dict[str, Any]:
    seeds: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for member in members:
        if member["status"] == "done":
            key = tuple(value for field, value in member["swept"].items() if is_seed(field))
            seeds.setdefault(key, []).append(member)
    done = sum(map(len, seeds.values()))
    failed = sum(member["status"] == "failed" for member in members)

    def by_seed(figure: _Figure) -> dict[Any, float | None]:
        # the same seed twice is no second seed: its members count as one
        return {seed: mean(estimate(map(figure, found))) for seed, found in seeds.items()}

    def at(point: str, figure: str) -> _Figure:
        return lambda member: _number(_point(member["report"], point), figure)

    def over_seeds(figure: _Figure) -> dict[str, Any] | None:
        return estimate(by_seed(figure).values())

    place = (metric.point if metric else None) or "final"
    figures = metric.figure if metric else ""
    reports = [member["report"] for found in seeds.values() for member in found]
    if reports and place not in reports[0]["points"]:
        place = "final"  # a figure of the whole run
        dense_values: dict[Any, float | None] = {}
    else:
        dense_values = by_seed(at("dense", figures))

    def judged(member: Mapping[str, Any]) -> float | None:
        point = _point(member["report"], place)
        return None if is_unsteady(point, metric) else member["figures"].get(metric.name)

    values = by_seed(judged) if metric else {}
    points = [_point(report, place) for report in reports]
    found: dict[str, Any] = {
        "fields": fields,
        "members": [member["member"] for member in members],
        "n": len(seeds),
        "failed": failed,
        "unfinished": len(members) - done - failed,
        "repeated": done - len(seeds),
        "series": _series(fields, reports),
        "problem": describe(
            {f: v for f, v in fields.items() if f.split(".")[0] in _PROBLEM}, nothing=""
        ),
        "dense_networks": {_dense_key(report): _point(report, "dense") for report in reports},
        "values": values,
        "dense_values": dense_values,
        "value": estimate(values.values()),
        # paired by member: seeds that make both networks good or bad cancel
        "change": estimate(paired(values, dense_values)),
        "headline": over_seeds(
            lambda member: _number(
                _point(member["report"], place), headline_of(member["report"]).name
            )
        ),
        "balanced_accuracy": over_seeds(at(place, "balanced_accuracy")),
        "macro_f1": over_seeds(at(place, "macro_f1")),
        "unequal": any(map(unequal, reports)),
        "loss": over_seeds(at(place, "loss")),
        **_latency(lambda figure: over_seeds(at(place, figure)), points),
        "unsteady": any(is_unsteady(point, metric) for point in points),
        "forms": _forms(_point(report, "dense") for report in reports),
    }
    found["unscaled_ratio"] = over_seeds(_of_unscaled)
    for figure in ("macs", "params"):
        found[figure] = over_seeds(at(place, figure))
        ours, dense = by_seed(at(place, figure)), by_seed(at("dense", figure))
        found[f"{figure}_ratio"] = estimate(
            value / dense[seed] for seed, value in ours.items() if value is not None and dense[seed]
        )
    return found


def _latency(
    over: Callable[[str], dict[str, Any] | None], points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """over: the estimate of a point's figure over seeds."""
    timed = [point for point in points if point.get("latency_ms")]
    return {
        "latency_ms": over("latency_ms.median"),
        "latency_ratio": over("latency_ratio.median"),
        "latency_span": _span(over(f"latency_ratio.{end}") for end in ("low", "high")),
        "steady": bool(timed) and all(map(is_steady, timed)),
        "steady_ms": bool(timed) and all(is_steady(point, "latency_ms") for point in timed),
    }


def _forms(points: Iterable[Mapping[str, Any]]) -> set[tuple[Any, Any]]:
    return {(point.get("macs"), point.get("params")) for point in points}


def _of_unscaled(member: Mapping[str, Any]) -> float | None:
    """The final network's MACs over those of the model before `scale`, None where it is that."""
    whole = _number(member["report"].get("unscaled") or {}, "macs")
    small = _number(_point(member["report"], "final"), "macs")
    return small / whole if whole and small is not None else None


def _point(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    points = report["points"]
    return points.get(name) or list(points.values())[0 if name == "dense" else -1]


def _number(point: Mapping[str, Any], figure: str) -> float | None:
    value: Any = point
    for part in figure.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _span(ends: Iterable[Mapping[str, Any] | None]) -> tuple[float, float] | None:
    """Means of the low and the high ends of what was measured, None where one is missing."""
    low, high = map(mean, ends)
    return None if low is None or high is None else (low, high)


def _gain(value: float | None, higher: bool) -> float | None:
    return value if value is None or higher else -value


def _speaks(field: str, value: str) -> bool:
    return "." not in field and number(value) is None and not value.startswith("(")


def _series(fields: Mapping[str, str], reports: Sequence[Mapping[str, Any]]) -> str:
    """What a configuration's colour stands for: its swept words, else its pruning method."""
    words = [
        value
        for field, value in fields.items()
        if number(value) is None and value != INERT and field.split(".")[0] not in _PROBLEM
    ]
    if words:
        return ", ".join(words)
    for report in reports:
        prune = (report.get("config") or {}).get("prune")
        target = prune.get("_target_") if isinstance(prune, Mapping) else None
        if target:  # compressor.prune.thinet.ThiNet: methods are named by their file
            return str(target).split(".")[-2:][0]
    return "final"


def _dense_key(report: Mapping[str, Any]) -> str:
    """The same for members that share one dense network."""
    keys = {stage["name"]: str(stage["key"]) for stage in report.get("stages", ())}
    for name in ("train", "start"):  # what nothing trains is the dense network itself
        if name in keys:
            return keys[name]
    point = _point(report, "dense")
    return f"{point.get('macs')}/{point.get(headline_of(report).name)}/{report.get('seed')}"


# -- options that do nothing --------------------------------------------------------------------


def _inert(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> set[tuple[str, str]]:
    """(member, field) of options under a group that is `none`: prune.ratio beside prune=none.

    Believed only where the keys say so: members that differ in these options alone must end in
    one and the same stage. Then they are one experiment, and one configuration.
    """
    found = set()
    for group in fields:
        options = [field for field in fields if field.startswith(f"{group}.")]
        rest = [field for field in fields if field not in options]
        ends: dict[tuple[str, ...], set[str]] = {}
        members = [row for row in rows if options and row["swept"][group] == "none"]
        for row in members:
            if row["report"] and row["report"].get("stages"):
                key = tuple(row["swept"][field] for field in rest)
                ends.setdefault(key, set()).add(row["report"]["stages"][-1]["key"])
        if ends and all(len(keys) == 1 for keys in ends.values()):
            found |= {(row["member"], field) for row in members for field in options}
    return found
