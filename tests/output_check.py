#!/usr/bin/env python3
"""What a lesson writes for programs: python3 tests/output_check.py build/bin

--json has the keys and types that every lesson promises, --trace is Chrome's trace format, --svg is well-formed."""
import glob
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

NUMBER = (int, float)
TOP = {"lesson": str, "ranks": int, "device": str, "transport": str, "dtype": str, "seed": int, "config": dict,
       "checks": list, "communication": list, "memory": list, "timings": dict, "ok": bool}
ROUNDED = 0.01  # microseconds: times are written with 12 digits
ROWS = {
    "checks": {"identity": str, "tier": str, "error": NUMBER, "bound": NUMBER, "baseline_error": NUMBER,
               "ok": bool},
    "communication": {"phase": str, "group": str, "op": str, "calls": int, "payload_bytes": int,
                      "wire_bytes": int, "predicted_wire_bytes": int, "formula": str, "counted": bool,
                      "ok": bool},
    "memory": {"rank": int, "kind": str, "bytes": int, "predicted_bytes": (int, type(None))},
}


def typed(value, wanted):
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))


def check_types(entry, keys, where, faults):
    for key, wanted in keys.items():
        if key not in entry:
            faults.append(f"{where} lacks {key}")
        elif not typed(entry[key], wanted):
            faults.append(f"{where}.{key} is {entry[key]!r}")


def not_json(constant):
    raise ValueError(f"{constant} is no JSON")  # python takes NaN, other readers do not


PIPELINE = {"schedule": str, "stages": int, "microbatches": int, "chunks": int, "partition": list,
            "bubble_predicted": NUMBER, "bubble_measured": NUMBER, "in_flight": list, "in_flight_predicted": list,
            "actions": list}


def check_pipeline(pipeline, asked, faults):
    check_types(pipeline, PIPELINE, "pipeline", faults)
    for name, value in {"schedule": asked["schedule"], "stages": asked["ranks"], "chunks": asked["chunks"],
                        "microbatches": asked["microbatches"], "in_flight": pipeline["in_flight_predicted"]}.items():
        if pipeline[name] != value:
            faults.append(f"pipeline.{name} is {pipeline[name]!r}, not {value!r}")
    if len(pipeline["partition"]) != asked["ranks"] * asked["chunks"] or sum(pipeline["partition"]) != asked["layers"]:
        faults.append(f"the partition {pipeline['partition']} is none")
    forwards = [sum(action.startswith("forward of") for action in stage) for stage in pipeline["actions"]]
    if forwards != asked["ranks"] * [asked["microbatches"] * asked["chunks"]]:
        faults.append(f"the stages' lists have {forwards} forwards")
    if not all(0 < pipeline["bubble_" + which] < 1 for which in ("predicted", "measured")):
        faults.append("a bubble is a share of the run")


def check_json(path, asked, tiers, faults):
    with open(path) as file:
        report = json.load(file, parse_constant=not_json)
    check_types(report, TOP, "json", faults)
    if faults:
        return report
    for name, keys in ROWS.items():
        for i, row in enumerate(report[name]):
            check_types(row, keys, f"{name}[{i}]", faults)
    for name, value in asked.items():
        if report["config"].get(name) != value or type(report["config"].get(name)) is not type(value):
            faults.append(f"config.{name} is {report['config'].get(name)!r}, asked for {value!r}")
        if name in report and report[name] != value:
            faults.append(f"{name} is {report[name]!r}, asked for {value!r}")
    if not report["checks"] or {row.get("tier") for row in report["checks"]} != tiers:
        faults.append(f"the checks are not of the tiers {tiers}")
    if "pipeline" in report:
        check_pipeline(report["pipeline"], asked, faults)
    if {row.get("rank") for row in report["memory"]} != set(range(report["ranks"])):
        faults.append("memory is not of every rank")
    if not all(typed(seconds, NUMBER) and seconds >= 0 for seconds in report["timings"].values()):
        faults.append("timings are no seconds")
    if report["ranks"] > 1 and not report["communication"]:
        faults.append("no communication")
    parts = [row["ok"] for name in ("checks", "communication") for row in report[name]]
    if report["ok"] is not True or not all(parts):
        faults.append("not ok, and the exit code is 0")
    return report


def start_of(event):
    return event["ts"], -event["dur"]  # of two that begin together the longer one is around the other


def end_of(event):
    return event["ts"] + event["dur"]


def check_trace(path, ranks, messages, faults):
    with open(path) as file:
        events = json.load(file, parse_constant=not_json)["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    if names != {rank: f"rank {rank}" for rank in range(ranks)}:
        faults.append(f"the trace names its rows {names}")
    bars = {rank: sorted((e for e in events if e["ph"] == "X" and e["tid"] == rank), key=start_of) for rank in names}
    for row in bars.values():  # a viewer drops a bar that lies across another one's end
        open_ends = []
        for event in row:
            while open_ends and open_ends[-1] <= event["ts"] + ROUNDED:
                open_ends.pop()
            if open_ends and end_of(event) > open_ends[-1] + ROUNDED:
                faults.append(f"the trace has bars that do not nest: {event}")
            open_ends.append(end_of(event))
    overlapped = {}
    for event in events:
        if event["ph"] in "be":
            overlapped.setdefault(event["id"], {key: event[key] for key in ("tid", "name")})[event["ph"]] = event["ts"]
    if not all(bar.keys() == {"tid", "name", "b", "e"} and bar["b"] <= bar["e"] for bar in overlapped.values()):
        faults.append(f"the trace has bars without their end: {overlapped}")
    for event in events:
        if event["ph"] == "X" and not (event["ts"] >= 0 and event["dur"] >= 0 and event["tid"] in names
                                       and event["name"] and event["cat"]):
            faults.append(f"the trace has {event}")
    # An arrow from where a message leaves to where it arrives, on another row and later.
    begins, ends = ({event["id"]: event for event in events if event["ph"] == end} for end in "sf")
    if len(begins) != messages or sum(event["ph"] in "sf" for event in events) != 2 * messages:
        faults.append(f"the trace has {len(begins)} arrows, not {messages}")
    for name, begin in begins.items():
        end = ends.get(name)
        if end is None or end["tid"] == begin["tid"] or end["ts"] < begin["ts"]:
            faults.append(f"the arrow {name} goes from {begin} to {end}")
    return bars, overlapped.values()


def check_overlap(bars, overlapped, buckets, faults):
    """Lesson 07: in each backward the sums of all buckets but the last begin while layers are still computed."""
    for rank, row in bars.items():
        for phase in (event for event in row if event["name"] == "bwd"):
            inside = [event for event in row if phase["ts"] <= event["ts"] < end_of(phase)]
            last_layer = max(end_of(event) for event in inside if event["cat"] == "layer")
            sums = [event["ts"] for event in inside if event["cat"] == "communication"]
            sums += [bar["b"] for bar in overlapped if bar["tid"] == rank and phase["ts"] <= bar["b"] < end_of(phase)]
            early = sum(begin < last_layer for begin in sums)
            if len(sums) != buckets or not buckets > 1 or early != buckets - 1:
                faults.append(f"rank {rank}: {early} of {len(sums)} sums begin before the last layer's end, "
                              f"there are {buckets} buckets")


def check_early(bars, overlapped, faults):
    """Lesson 08: sums over dp that begin in one instruction of the backward, and end in a later one."""
    for rank, row in bars.items():
        phases = [event for event in row if event["name"] == "bwd"]
        if not any(bar["tid"] == rank and event["ts"] <= bar["b"] < end_of(event) < bar["e"]
                   for bar in overlapped for event in phases):
            faults.append(f"rank {rank}: no sum begins before the backward's end")


def check_sums_beside(bars, overlapped, faults):
    """ZeRO: while the gradients of a part are computed, those of the part behind it, if any, are summed."""
    for rank, row in bars.items():
        sums = [bar for bar in overlapped if bar["tid"] == rank and ": reduce_scatter by rows" in bar["name"]]
        parts = [event for event in row if event["name"].endswith(", dW")]
        pairs = 0
        for before, part in zip(parts, parts[1:]):
            behind = int(before["name"][5:-4]) == int(part["name"][5:-4]) + 1
            beside = any(bar["b"] <= part["ts"] and end_of(part) <= bar["e"] for bar in sums)
            pairs += behind
            if beside != behind:
                faults.append(f"rank {rank}: {part['name']} lies {'beside a' if beside else 'beside no'} sum of gradients")
        if not pairs or not sums:
            faults.append(f"rank {rank}: {pairs} parts follow another one, {len(sums)} sums")


def check_summary(path, report, faults):
    with open(path) as file:
        lines = file.read().split("\n")
    cells = lines[0].split("\t")
    checks, sent = report["checks"], sum(row["wire_bytes"] for row in report["communication"])
    if (len(lines) != 2 or len(cells) != 6 or not cells[0].startswith(report["lesson"]) or not cells[2].endswith("%")
            or cells[1] != f"{len(checks)} of {len(checks)}" or cells[3] != f"{sent} B" or cells[5] != "holds"):
        faults.append(f"the line for ./tessera run's table is {lines}")
    os.remove(path)


def check_svg(path, faults):
    root = xml.parse(path).getroot()
    space = "{http://www.w3.org/2000/svg}"
    if root.tag != space + "svg" or not root.findtext(space + "title") or not root.findall(f".//{space}rect"):
        faults.append("the picture lacks its root, its title or its blocks")


class Case:
    """A run of a lesson: its flags, and what its files must hold."""

    def __init__(self, ranks, exact=True, messages=0, extra=lambda bars, report, faults: None, **asked):
        self.asked = {name.replace("_", "-"): value for name, value in asked.items()} | {"seed": 5, "dtype": "f64"}
        if ranks > 1 and "tp" not in asked:
            self.asked["ranks"] = ranks
        self.ranks, self.messages, self.extra = ranks, messages, extra
        self.tiers = {"exact", "float"} if exact else {"float"}


def mlp():
    return Case(1, tokens=12, width=24, ffn=36, steps=60, text=__file__)


def matrices():
    return Case(3, tokens=12, width=24, ffn=36)


def attention():
    return Case(3, batch=2, seq=5, width=24, heads=6, kv_heads=3, dropout=0.25, mask="padding")


def pipeline():
    stages, chunks, microbatches = 3, 2, 6
    return Case(stages, exact=False, schedule="interleaved", chunks=chunks, microbatches=microbatches, batch=12,
                layers=7, seq=4, width=8, heads=2, vocab=11,
                messages=2 * microbatches * (stages * chunks - 1))  # each way over each boundary of chunks


def data_parallel():
    def overlap(bars, report, faults):
        calls = [row["calls"] for row in report["communication"] if row["phase"] == "bwd"]
        check_overlap(*bars, calls[0] // (case.asked["steps"] + 1), faults)

    case = Case(3, exact=False, extra=overlap, batch=5, seq=4, width=24, heads=3, layers=3, vocab=17, steps=3, lr=0.05,
                bucket="16KiB")
    return case


def three_d():
    return Case(8, exact=False, extra=lambda bars, report, faults: check_early(*bars, faults), tp=2, pp=2, dp=2, batch=8,
                microbatches=2, layers=4, width=8, heads=2, seq=4, steps=2, bucket="1KiB", text=__file__)


def three_d_zero():
    return Case(8, exact=False, extra=lambda bars, report, faults: check_sums_beside(*bars, faults), tp=2, pp=2, dp=2,
                batch=8, microbatches=2, layers=4, width=8, heads=2, seq=4, steps=2, zero=2, text=__file__)


def sequence_parallel():
    def equal_bytes(bars, report, faults):
        sent = {which: sum(report[which][f"{way}_bytes"] for way in ("forward", "backward"))
                for which in ("cut_by_tokens", "lesson_05")}
        if sent["cut_by_tokens"] != sent["lesson_05"] or sent["lesson_05"] == 0:
            faults.append(f"{sent} are no equal bytes")
        if not report["cut_by_tokens"]["kept_for_backward"] < report["lesson_05"]["kept_for_backward"]:
            faults.append("nothing is saved")

    return Case(3, exact=False, extra=equal_bytes, batch=2, seq=6, width=24, heads=6, kv_heads=3, dropout=0.25)


def zero():
    def overlap(bars, report, faults):
        """The weights of every part but the first of a pass are on their way while the part before computes."""
        for rank in bars[0]:
            early = sum(bar["tid"] == rank and ": all_gather" in bar["name"] for bar in bars[1])
            if early != 2 * (case.asked["layers"] + 1) * (case.asked["steps"] + 1):
                faults.append(f"rank {rank}: {early} all-gathers overlap with a part's computation")
        check_sums_beside(*bars, faults)

    case = Case(3, exact=False, extra=overlap, stage=3, batch=5, seq=4, width=24, heads=3, layers=3, vocab=17, steps=3)
    return case


def context_parallel():
    def even(bars, report, faults):
        if len(report["multiply_adds"]) != case.ranks or len(set(report["multiply_adds"])) != 1:
            faults.append(f"the ranks make {report['multiply_adds']} multiply-adds")
        for rank in bars[0]:
            if sum(bar["tid"] == rank for bar in bars[1]) < 3 * (case.ranks - 1):
                faults.append(f"rank {rank} does not compute while keys and values travel")

    case = Case(3, exact=False, extra=even, batch=2, seq=12, width=24, heads=6, kv_heads=3)
    return case


def experts():
    def rows(bars, report, faults):
        load, all_rows = report["load"], case.asked["tokens"] * case.asked["top-k"]
        if sum(load["ranks"]) != all_rows or sum(load["experts"]) != all_rows or len(load["experts"]) != 6:
            faults.append(f"the experts have {load} rows of {all_rows}")

    case = Case(3, exact=False, extra=rows, tokens=17, width=6, ffn=10, experts=6)
    case.asked["top-k"] = 2
    return case


def all_axes():
    def table(bars, report, faults):
        for name, (*_, sent, predicted) in report["axes"].items():
            if sent != predicted or (sent == 0) != (name == "nothing"):
                faults.append(f"{name} alone sends {sent} B of {predicted}")
        if len(report["axes"]) != 10 or report["groups"]["ep"] != [[0, 2], [1, 3], [4, 6], [5, 7]]:
            faults.append(f"axes {list(report['axes'])}, ep groups {report['groups']['ep']}")

    return Case(8, exact=False, extra=table, batch=8, width=8, heads=2, seq=8, steps=2, text=__file__)


CASES = [("01", mlp), ("02", matrices), ("03", matrices), ("04", matrices), ("05", attention), ("06", pipeline),
         ("07", data_parallel), ("08", three_d), ("08", three_d_zero), ("09", sequence_parallel), ("10", zero),
         ("11", context_parallel), ("12", experts), ("13", all_axes)]


def check(program, case, scratch, name):
    files = {flag: f"{scratch}/{name}.{flag}" for flag in ("json", "trace", "svg")}
    line = [program] + [word for flag, value in {**case.asked, **files}.items() for word in (f"--{flag}", str(value))]
    summary = f"{scratch}/summary"
    run = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "TESSERA_SUMMARY": summary})
    if run.returncode != 0:
        sys.exit(f"{' '.join(line)}\nends with {run.returncode}\n{run.stdout}{run.stderr}")
    faults = []
    report = check_json(files["json"], case.asked, case.tiers, faults)
    bars = check_trace(files["trace"], case.ranks, case.messages, faults)
    case.extra(bars, report, faults)
    check_summary(summary, report, faults)
    check_svg(files["svg"], faults)
    if sorted(os.listdir(scratch)) != sorted(f"{name}.{flag}" for flag in files):
        faults.append(f"it leaves {os.listdir(scratch)}")
    if faults:
        sys.exit("\n  ".join([" ".join(line), *faults]))


def main():
    for name, case in CASES:
        programs = glob.glob(os.path.join(sys.argv[1], f"{name}_*"))
        if len(programs) != 1:
            sys.exit(f"{len(programs)} programs of lesson {name} in {sys.argv[1]}")
        with tempfile.TemporaryDirectory() as scratch:
            check(programs[0], case(), scratch, name)
    print(f"the JSON, traces and pictures of {len(CASES)} runs are in order")


if __name__ == "__main__":
    main()
