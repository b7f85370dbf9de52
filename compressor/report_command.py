"""compress-report: the report of a sweep from its folder, while it runs or years later.

Exit codes as compress-run's: 0 done, 1 a failure (a folder that cannot be written), 2 the command
is wrong, 130 interrupted. Reads files only, but for --measure.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from compressor.errors import RunError, UsageError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every other failure."""
        raise UsageError(f"{message}; compress-report --help shows the usage")


def main(argv: Sequence[str] | None = None) -> int:
    """The console command. Returns the exit code; prints one line about a failure."""
    try:
        options = _parser().parse_args(argv)
        from rich.console import Console

        from compressor.report import sweep

        folder = Path(options.folder)
        if options.measure:
            _measure(folder, options.trust)
        summary = sweep.summarise(folder, baseline=options.baseline, metric=options.metric)
        Console().print(sweep.table(summary))
        sys.stdout.flush()
    except (UsageError, RunError) as error:
        print(f"compress-report: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # the reader of our output went away (`| head`): say nothing, and nothing at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("compress-report: interrupted; the same command starts again", file=sys.stderr)
        return 130
    return 0


def _measure(folder: Path, trust: Sequence[str]) -> None:
    """Time the networks anew; the one thing here that takes torch and more than files."""
    from compressor.report.members import members

    members(folder)  # refuses a folder without any, before torch is imported
    from compressor import multirun, sweep_latency

    if trust:
        multirun.admit_users_folder()
    sweep_latency.again(folder, lambda line: print(line, flush=True), trust)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="compress-report",
        description="Report a sweep: what it shows, with intervals over seeds, from its members' "
        "files. Writes summary.csv, summary.md, plots and a report.html into the folder.",
        epilog="example: compress-report outputs/multiruns/2026-11-24/12-00-00-000000 "
        "--baseline random",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of a multirun, or of a single run")
    parser.add_argument(
        "--baseline",
        help="what configurations are compared with: dense (each member's own dense network), a "
        "swept option such as random, or field=value (default: random, else none, else dense)",
    )
    parser.add_argument(
        "--metric",
        help="the figure they are compared by, such as final.loss or compressed.accuracy "
        "(default: the headline, such as final.accuracy)",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="first time the networks of all finished members again, in turns, for at most 10 "
        "minutes; on a machine that is idle",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="CLASS",
        help="of --measure: a class of your own that a network may be built of, such as "
        "my_package.MyNet; may be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
