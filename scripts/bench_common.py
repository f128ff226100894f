"""What the measurements of scripts/bench share: running commands, rounds, tables.

Standard library only. Every command is run by GNU time, which reports on its own child alone: the memory of this
interpreter does not count. Rounds are interleaved, so that a busy minute of the machine hits all alike.
"""

import os
import platform
import shutil
import statistics
import subprocess
import time

LEGEND = "A ratio below 1 (in bold) is one that we lose."
# What `run` measures: the head of a column, and digits after the point.
MEASURED = (("wall s", 2), ("processor s", 2), ("peak MiB", 1))


class Failed(Exception):
    """A contender could not do the work; the text is its last line."""


def interleaved(contenders, rounds, attempt):
    """Runs `attempt(contender, round)` for all in turn, in one round more than are kept: the first, 0, warms up.
    Per contender what its attempts returned, or the error of the one that failed."""
    runs = {contender: [] for contender in contenders}
    for round_ in range(rounds + 1):
        turn = round_ % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            if isinstance(runs[contender], Failed):
                continue
            try:
                result = attempt(contender, round_)
            except Failed as error:
                runs[contender] = error
                continue
            if round_ > 0:
                runs[contender].append(result)
    return runs


def run(steps, request, scratch):
    """Wall seconds, processor seconds, and peak memory in MiB: added up in a pipe, the largest of several steps.
    A step is a list of commands that are joined by pipes; the stdout of the last is `scratch`/out after it."""
    wall = cpu = peak = 0
    for number, step in enumerate(steps):
        started = time.monotonic()
        processes = []
        upstream = subprocess.PIPE
        for place, command in enumerate(step):
            report, log = scratch / f"time.{place}", scratch / f"log.{place}"
            last = place == len(step) - 1
            process = subprocess.Popen(
                ["time", "-q", "-o", report, "-f", "%U %S %M"] + command,
                stdin=upstream,
                stdout=(scratch / "out").open("wb") if last else subprocess.PIPE,
                stderr=log.open("wb"),
            )
            if place > 0:
                upstream.close()
            upstream = process.stdout
            processes.append((process, command, report, log))
        first = processes[0][0]
        try:
            first.stdin.write(request.encode() if number == 0 else b"")
            first.stdin.close()
        except BrokenPipeError:
            pass  # its exit status tells more
        codes = [process.wait() for process, *_ in processes]
        wall += time.monotonic() - started
        memory = 0
        for code, (_, command, report, log) in zip(codes, processes):
            if code != 0:
                lines = log.read_text(errors="replace").strip().splitlines()
                raise Failed(f"{command[0]}: {lines[-1] if lines else f'exit {code}'}")
            user, system, kib = report.read_text().split()
            cpu += float(user) + float(system)
            memory += int(kib) / 1024
        peak = max(peak, memory)
    return wall, cpu, peak


def print_setting(title, options, others):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"# {title}\n")
    print(f"Machine: {os.cpu_count()} × {cpu}, {memory:.0f} GiB, Linux {platform.release()}; load at the start {os.getloadavg()[0]:.1f}.")
    size = options.binary.stat().st_size
    print(f"registry-image: {output(options.binary, '--version')}, {options.commit}, {size} bytes, static.")
    for name in others:
        if shutil.which(name):
            print(f"{name}: {output(name, 'version' if name == 'crane' else '--version').splitlines()[0]}.")
    print(f"\n{options.runs} interleaved rounds after one to warm up; median (least–most).")


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def print_table(contenders, runs, columns=MEASURED):
    """A row per contender: its values, and their ratios to those of the first contender, which is ours."""
    ours = runs[contenders[0]]
    names = [head.split(" ")[0] for head, _ in columns]
    print("\n| program | " + " | ".join(head for head, _ in columns) + " | " + " | ".join(f"{name} ÷ ours" for name in names) + " |")
    print("| --- |" + " --- |" * 2 * len(columns))
    for contender in contenders:
        theirs = runs[contender]
        if isinstance(theirs, Failed):
            print(f"| {contender.title} | failed: {theirs} |" + " |" * (2 * len(columns) - 1))
            continue
        cells = [spread([values[column] for values in theirs], digits) for column, (_, digits) in enumerate(columns)]
        if isinstance(ours, Failed):
            cells += [""] * len(columns)
        else:
            cells += [ratio(theirs, ours, column) for column in range(len(columns))]
        print(f"| {contender.title} | " + " | ".join(cells) + " |", flush=True)


def spread(values, digits):
    least, middle, most = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if least == most else f"{middle} ({least}–{most})"


def ratio(theirs, ours, column):
    theirs, ours = (statistics.median(run[column] for run in runs) for runs in (theirs, ours))
    if not ours:
        return "" if theirs else "1.00"
    value = theirs / ours
    return f"**{value:.2f}**" if round(value, 2) < 1 else f"{value:.2f}"
