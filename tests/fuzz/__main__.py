"""Fuzzes what reads files of anybody.

    python -m tests.fuzz --seconds 600 [--reader manifest,onnx] [--seed 7]
    python -m tests.fuzz --reader manifest FILE       what the reader makes of one input

The same seed gives the same inputs. The exit status is 1 where a reader raised what is not ours, warned, hung, or took
more time or memory than its input is worth.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz import judge, reader, run


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="for each reader (default 60)")
    parser.add_argument("--inputs", type=int, default=2**62, help="at most so many for each reader")
    parser.add_argument("--reader", default="", help=f"only these, by commas, of {', '.join(reader.names())}")
    parser.add_argument("--seed", default="0", help="of the mutants (default 0)")
    parser.add_argument("--keep", type=Path, default=Path("fuzzed"), help="where inputs go that were trouble")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("file", nargs="?", type=Path, help="an input to read again")
    asked = parser.parse_args()
    names = [name for name in asked.reader.split(",") if name] or reader.names()
    if unknown := set(names) - set(reader.names()):
        parser.error(f"no reader {min(unknown)}; there are {', '.join(reader.names())}")
    if asked.alone:
        run.alone(names[0], asked.seed, asked.seconds, asked.inputs, asked.alone, asked.keep)
        return 0
    if asked.file:
        return _again(names, asked.file)
    tallies = {}
    for name in names:
        tallies[name] = run.run(name, asked.seed, asked.seconds, asked.inputs, asked.keep.resolve())
        print(run.table({name: tallies[name]}).splitlines()[-1], file=sys.stderr)
    print(run.table(tallies))
    for name, tally in tallies.items():
        for kind, count in tally.trouble.items():
            print(f"{name}: {kind}, {count:,} times")
        for path in tally.kept:
            print(f"  python -m tests.fuzz --reader {name} {path}")
    return int(any(tally.trouble for tally in tallies.values()))


def _again(names: list[str], path: Path) -> int:
    (name,) = names
    under_test = reader.get(name)
    under_test.seeds()  # what the reader takes as given comes with them
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copyfile(path, Path(folder) / f"input{under_test.suffix}"))
        judge.forget_peak()
        fate = judge.judge(under_test, copy)
        fate = fate if fate.trouble else judge.judge(under_test, copy, traced=True)
    print(fate.trouble or fate.refusal or "accepted")
    return int(bool(fate.trouble))


if __name__ == "__main__":
    sys.exit(main())
