"""The numbers of a forest plot: differences paired by seed, on each text and in the mean over texts."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.forest_file import BY_COMPARISON, EACH_GROUP, ForestFile
from benchmarks.result_tables import check_texts, read_rows
from charladder.errors import UserError, suggest_names
from charladder.studies.meta_analysis import MetaAnalysis, combine_studies
from charladder.studies.plan import Contrast
from charladder.studies.power import smallest_detectable_effect
from charladder.studies.report import correct_p_values
from charladder.studies.statistics import (
    SIGNIFICANCE_LEVEL,
    Difference,
    is_significant,
    make_verdict,
    paired_difference,
)

ALL_TEXTS = "all texts"
ROUNDING = 1e-12  # bits per character; a smaller spread over seeds is that of rounding, not of chance

Bits = dict[str, dict[str, dict[int, float]]]  # by text, arm and seed


@dataclass(frozen=True)
class Line:
    """A comparison on one text. smallest: the effect that as many seeds show with a power of 80%. effect: that would
    have mattered."""

    label: str
    comparison: Contrast
    text: str
    difference: Difference
    effect: float | None
    p_holm: float | None = None
    smallest: float | None = None
    verdict: str = ""

    @property
    def is_shown(self) -> bool:
        return is_significant(self.difference, self.p_holm)


@dataclass(frozen=True)
class Pooled:
    """A comparison in the mean over texts. left_out: texts with too few seeds for a variance."""

    label: str
    result: MetaAnalysis
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Lines of the plot under one title."""

    title: str
    lines: tuple[Line | Pooled, ...]


def read_bits(folder: Path, tables: tuple[str, ...]) -> Bits:
    """The bits of the runs of the final stage. Raises UserError for a table without any, and where two differ."""
    bits: Bits = {}
    texts: dict[str, str] = {}
    for name in tables:
        path = folder / f"{name}.csv"
        rows = [row for row in read_rows(path) if row["stage"] == "final"]
        if not rows:
            raise UserError(f"{path} has no runs; add them with python -m benchmarks collect STUDY --name {name}")
        check_texts(rows, path, texts)
        for row in rows:
            value = float(row["bits_per_character"] or "nan")
            if not math.isfinite(value):
                raise UserError(f"{path}: {row['arm']!r}, seed {row['seed']}, has no bits per character")
            by_seed = bits.setdefault(row["text"], {}).setdefault(row["arm"], {})
            if by_seed.setdefault(int(row["seed"]), value) != value:
                raise UserError(
                    f"{path} and another table have other bits for {row['arm']!r}, seed {row['seed']}, on "
                    f"{row['text']}; collect one of them with --text"
                )
    return bits


def compute_groups(about: ForestFile, bits: Bits) -> list[Group]:
    """The groups of a plot. A comparison is left out on a text that lacks one of its arms."""
    comparisons = _list_comparisons(about, {arm for by_arm in bits.values() for arm in by_arm})
    lines = {
        (one.name, text): Line(one.name, one, text, difference, about.effect_of(one.name))
        for one in comparisons.values()
        for text in bits
        if (difference := _difference(one, bits[text])) is not None
    }
    if not lines:
        raise UserError("no comparison has runs of the same text and seed in all of its arms")
    pooled = {name: _pool(name, lines, list(bits)) for name in comparisons} if about.meta_analysis else {}
    titles = about.groups or ({name: (name,) for name in comparisons} if about.group_by == BY_COMPARISON else {})
    groups = [
        Group(title, tuple(_of_group(about, names, lines, pooled, list(bits)))) for title, names in titles.items()
    ]
    if not titles:
        groups = [
            Group(text, tuple(lines[name, text] for name in comparisons if (name, text) in lines)) for text in bits
        ]
        groups.append(Group(ALL_TEXTS, tuple(one for one in pooled.values() if one is not None)))
    return _judge([group for group in groups if group.lines], about.holm == EACH_GROUP)


def list_left_out(about: ForestFile, bits: Bits) -> list[str]:
    """The comparisons that a text does not have, for the user."""
    comparisons = _list_comparisons(about, {arm for by_arm in bits.values() for arm in by_arm})
    return [
        f"{one.name} on {text}, where no seed has all of its arms"
        for one in comparisons.values()
        for text in bits
        if _difference(one, bits[text]) is None
    ]


def _of_group(
    about: ForestFile,
    names: tuple[str, ...],
    lines: Mapping[tuple[str, str], Line],
    pooled: Mapping[str, Pooled | None],
    texts: list[str],
) -> Iterator[Line | Pooled]:
    """The lines of these comparisons, and their means over texts."""
    by_comparison = about.group_by == BY_COMPARISON and not about.groups
    for name in names:
        for text in texts:
            if (name, text) in lines:
                label = text if by_comparison else name if len(texts) == 1 else f"{name}, {text}"
                yield replace(lines[name, text], label=label)
        mean = pooled.get(name)
        if mean is not None:
            yield replace(mean, label=ALL_TEXTS if by_comparison else f"{name}, {ALL_TEXTS}")


def _list_comparisons(about: ForestFile, arms: set[str]) -> dict[str, Contrast]:
    """All comparisons by name. Raises UserError for an unknown arm, and for one that no group has."""
    found: dict[str, Contrast] = {}
    if about.baseline is not None:
        for arm in about.arms or sorted(arms - {about.baseline}):
            found[arm] = Contrast(arm, (arm,), (about.baseline,))
    for one in about.comparisons:
        if one.name in found:
            raise UserError(
                f"comparison {one.name!r} has the name of the arm that is compared with the baseline; rename it"
            )
        found[one.name] = one
    for one in found.values():
        for arm in (*one.plus, *one.minus):
            if arm not in arms:
                raise UserError(f"comparison {one.name!r} has the unknown arm {arm!r}{suggest_names(arm, arms)}")
    grouped = [name for names in about.groups.values() for name in names]
    for name in grouped:
        if name not in found:
            raise UserError(f"[groups] has the unknown comparison {name!r}{suggest_names(name, found)}")
    if grouped and (missing := [name for name in found if name not in grouped]):
        raise UserError(f"comparison {missing[0]!r} is in no group; add it to one in [groups]")
    return found


def _difference(one: Contrast, by_arm: Mapping[str, dict[int, float]]) -> Difference | None:
    """The sum over `plus` minus the sum over `minus`, paired by seed."""
    if not set(one.plus) | set(one.minus) <= set(by_arm):
        return None
    seeds = set.intersection(*(set(by_arm[arm]) for arm in (*one.plus, *one.minus)))
    plus, minus = ({seed: sum(by_arm[arm][seed] for arm in side) for seed in seeds} for side in (one.plus, one.minus))
    return paired_difference(plus, minus)


def _pool(name: str, lines: Mapping[tuple[str, str], Line], texts: list[str]) -> Pooled | None:
    """The mean of a comparison over texts; None unless at least two have a variance."""
    found = [(text, lines[name, text].difference) for text in texts if (name, text) in lines]
    used = [one for _, one in found if (one.deviation or 0) > ROUNDING]
    left_out = tuple(text for text, one in found if one not in used)
    result = combine_studies(
        [one.mean for one in used], [(one.deviation or 0) ** 2 / len(one.seeds) for one in used]
    )  # fmt: skip
    return Pooled(name, result, left_out) if result is not None and result.studies > 1 else None


def _judge(groups: list[Group], by_group: bool) -> list[Group]:
    """The groups with corrected p-values, smallest detectable effects and verdicts."""
    families = [[group] for group in groups] if by_group else [groups]
    return [group for family in families for group in _judge_family(family)]


def _judge_family(groups: list[Group]) -> list[Group]:
    tested = {
        f"{group} {index}": line.difference
        for group, one in enumerate(groups)
        for index, line in enumerate(one.lines)
        if isinstance(line, Line)
    }
    p_holm = correct_p_values(tested)

    def judge(key: str, line: Line | Pooled) -> Line | Pooled:
        if isinstance(line, Pooled):
            return line
        difference, p = line.difference, p_holm.get(key)
        smallest = None
        if difference.deviation is not None:
            level = SIGNIFICANCE_LEVEL / len(p_holm)  # of Holm's first step, as in the report of a study
            smallest = smallest_detectable_effect(difference.deviation, len(difference.seeds), level=level)
        return replace(line, p_holm=p, smallest=smallest, verdict=_verdict(line, p))

    return [
        replace(one, lines=tuple(judge(f"{group} {index}", line) for index, line in enumerate(one.lines)))
        for group, one in enumerate(groups)
    ]


def _verdict(line: Line, p_holm: float | None) -> str:
    """The verdict of the report of a study; of a sum over several arms, on which side of 0 it is."""
    one, difference = line.comparison, line.difference
    baseline, *others = one.minus
    if others and is_significant(difference, p_holm):
        return f"{'below' if difference.mean < 0 else 'above'} 0, {len(difference.seeds)} seeds"
    return make_verdict(difference, p_holm, baseline, effect=line.effect)
