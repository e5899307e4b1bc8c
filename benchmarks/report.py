"""A report of ours, the hand-written limit and the peers in one sitting: a table with ratios, a chart, a JSON file.

    python benchmarks/peers/environment.py fedjax pfl
    python benchmarks/report.py --workloads W1,W2 --programs ours,hand-written,fedjax,pfl
    python benchmarks/report.py --workloads W4 --programs 'ours,hand-written,tff:iterator loop'

All programs of a workload are verified, then take turns round by round. Each is a process of its own,
started for this workload and stopped after it. Ratios compare medians: a program's over ours. Each program has
`--rounds` timed rounds, or `--slow-rounds` if its rounds take longer than `--slow` seconds. A peer
without an environment is left out with a message. The script writes `results/NAME.json` and `results/NAME.png`.

All programs of a workload are in memory at once. If they would push the examples out of the file cache,
as several do on W4, run a sitting for each peer, or for one of its variants.
"""

import argparse
import itertools
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "peers"))
import _protocol
import _sitting
import environment
import workloads
from _machine import machine

HERE = pathlib.Path(__file__).resolve().parent
FEW = ("W1", "W2", "W4")
VARIANTS = {  # by peer: each variant, and its settings that differ from the default
    "fedjax": {"padded": {}, "shipped": {"exact": False, "workloads": FEW}},  # on W3 it compiles for minutes
    "pfl": {"2 threads": {}, "1 thread": {}},
    "drjax": {"padded": {"workloads": ("W1", "W2")}},  # W4's padded cohort does not fit beside the others
    "flwr": {"ray actors": {"workloads": FEW}},
    "tff": {"iterator loop": {"workloads": FEW}, "default loop": {"workloads": FEW}},
    "declearn": {v: {"workloads": ("W1",), "own_reference": True} for v in ("1 thread", "2 threads")},
}
OWN = ("hand-written", "ours")


def programs(names: list[str], folder: pathlib.Path, say=print) -> list[_sitting.Program]:
    """The requested programs, named as in `choices`, that can run; the hand-written one and ours come first."""
    script = str(HERE / "ours_round.py")
    found = [_sitting.Program(n, [sys.executable, script, "--variant", n]) for n in OWN if n in names]
    for asked in names:
        if asked in OWN:
            continue
        name, _, only = asked.partition(":")
        if not environment.is_ready(name, folder):
            say(f"{name} is left out: no environment; make it: python benchmarks/peers/environment.py {name}")
            continue
        start = [str(environment.python_of(name, folder)), str(HERE / "peers" / f"{name}_round.py"), "--variant"]
        for variant, special in VARIANTS[name].items():
            if variant == only or not only:
                found.append(_sitting.Program(f"{name}, {variant}", [*start, variant], **special))
    return list({program.name: program for program in found}.values())  # each once, however often it was requested


def choices() -> list[str]:
    """The names that `--programs` takes: ours, the hand-written one, a peer, or one variant of a peer."""
    peers = [[name, *(f"{name}:{variant}" for variant in variants)] for name, variants in VARIANTS.items()]
    return [*OWN, *itertools.chain(*peers)]


def table(results: dict, rounds: int) -> str:
    """A Markdown table of seconds per round, with the ratio to ours in brackets.

    Args:
      results: By workload, then by program: the results of `_sitting.take_turns`.
      rounds: The usual number of timed rounds; fewer are marked `[n]`.
    """
    names = list(dict.fromkeys(name for of in results.values() for name in of))
    lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name in names:
        cells = [_cell(of.get(name), of.get("ours"), rounds) for of in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(result, ours, rounds: int) -> str:
    if result is None:
        return "-"
    if "failed" in result:
        return "failed"
    text = f"{result['median_s']:.3g}"
    if ours and ours.get("median_s"):
        text += f" ({result['median_s'] / ours['median_s']:.2f})"
    if len(result["seconds"]) < rounds:
        text += f" [{len(result['seconds'])}]"
    return text if result["verified"] else text + " *"


def chart(results: dict, file: pathlib.Path, description: dict):
    """Draws the seconds of each program's round and the ratio to ours, one panel per workload, and writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    timed = {w: {n: r for n, r in of.items() if "median_s" in r} for w, of in results.items()}
    height = 1.2 + 0.32 * max(map(len, timed.values()))
    figure, axes = pyplot.subplots(1, len(timed), figsize=(5.2 * len(timed), height), squeeze=False)
    for axis, (workload, of) in zip(axes[0], timed.items()):
        ordered = sorted(of, key=lambda name: of[name]["median_s"], reverse=True)
        medians = [of[name]["median_s"] for name in ordered]
        colors = ["tab:blue" if name == "ours" else "tab:gray" for name in ordered]
        bars = axis.barh(ordered, medians, color=colors)
        unit = of.get("ours", {}).get("median_s")
        axis.bar_label(bars, [f"{m:.3g} s" + (f", {m / unit:.1f}x" if unit else "") for m in medians], padding=3)
        axis.set(xscale="log", title=workload, xlabel="seconds a round (median)")
        axis.set_xlim(min(medians) / 2, max(medians) * 12)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{description['cpu']}, {description['cores']} cores, {description['date']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def write(results: dict, folder: pathlib.Path, name: str, description: dict, limits: _sitting.Limits) -> str:
    """Writes the JSON file and the chart, and returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": description, "limits": limits._asdict(), "results": results}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    if any("median_s" in r for of in results.values() for r in of.values()):
        chart(results, folder / f"{name}.png", description)
    return table(results, limits.rounds)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description="Times ours, the limit and the peers in one sitting.")
    workloads.add_data_option(found)
    default = _sitting.Limits()
    found.add_argument("--workloads", default="W1", help="with commas between")
    found.add_argument(
        "--programs", default=",".join([*OWN, *VARIANTS]), help="with commas between: NAME or NAME:VARIANT"
    )
    found.add_argument("--rounds", type=int, default=default.rounds, help="timed rounds of each")
    found.add_argument("--slow", type=float, default=default.slow, help="seconds of a round that is slow")
    found.add_argument("--slow-rounds", type=int, default=default.slow_rounds, help="timed rounds of a slow program")
    found.add_argument("--environments", type=pathlib.Path, default=environment.FOLDER, help="the peers' folder")
    found.add_argument("--results", type=pathlib.Path, default=HERE / "results", help="where to write")
    found.add_argument("--name", default="report", help="of the files that are written")
    return found


def main(argv=None) -> int:
    """The command line."""
    args = parser().parse_args(argv)
    from rounds import TOLERANCES

    def say(line):
        print(line, file=sys.stderr, flush=True)

    names = args.programs.split(",")
    if unknown := [n for n in names if n not in choices()]:
        say(f"no such programs: {', '.join(unknown)}; there are {', '.join(choices())}")
        return 2
    data, description = workloads.folder(args.data).resolve(), machine()
    limits = _sitting.Limits(rounds=args.rounds, slow=args.slow, slow_rounds=args.slow_rounds)
    results = {}
    for workload in args.workloads.split(","):
        able = [p for p in programs(names, args.environments, say) if workload in p.workloads]
        task = _protocol.load(workload, data)
        results[workload] = _sitting.take_turns(able, workload, data, task, TOLERANCES[workload], limits, say)
        text = write(results, args.results, args.name, description, limits)  # after each: a long sitting may be cut
    print(text)
    print("\nSeconds a round, in brackets how many times ours; [n]: timed rounds, where fewer; *: other weights.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
