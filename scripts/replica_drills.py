"""Run the drills of several copies of the service on a real PostgreSQL, again and again, and print the table of what
was found, as in docs/reliability.md.

``scripts/replica_drills.py --runs 10``; ``--former PATH/src`` adds the upgrade from another release, whose source is
there. Exit code 1 when a job was lost, doubled or set back.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.drills import DRILLS, Drill, rolling_upgrade
from support.postgres import Postgres
from support.replicas import Findings, running_copies


async def run_once(drill: Drill, postgres: Postgres, seed: str, *, hold_s: float, former: Path | None) -> Findings:
    """Run a drill on an empty database; return what was found."""
    url = postgres.url(postgres.create_database())
    with (
        tempfile.TemporaryDirectory(prefix="ingest-drill-") as folder,
        running_copies(url, Path(folder), hold_s=hold_s, source=former) as copies,
    ):
        await copies.prepare()
        await drill(copies, postgres, random.Random(seed))  # noqa: S311 - a seed repeats a drill
        return await copies.settle()


def main() -> int:
    """Run all drills; print a row for each as soon as it is complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each drill")
    parser.add_argument("--hold-s", type=float, default=6.0, help="seconds of the dispatcher's lease")
    parser.add_argument("--former", type=Path, help="directory `src` of the release to upgrade from")
    parser.add_argument("--only", nargs="*", help="names of drills")
    options = parser.parse_args()
    drills = {**DRILLS, **({"rolling_upgrade": rolling_upgrade} if options.former else {})}
    postgres = Postgres()
    postgres.start()
    bad = 0
    sys.stdout.write(f"{platform.machine()}, {time.strftime('%Y-%m-%d')}, lease {options.hold_s:g} s\n\n")
    sys.stdout.write(
        "| drill | runs | jobs accepted | drivers | lost | doubled | set back |\n|---|---|---|---|---|---|---|\n"
    )
    try:
        for name, drill in drills.items():
            if options.only and name not in options.only:
                continue
            found = []
            for run in range(options.runs):
                one = asyncio.run(
                    run_once(drill, postgres, f"{name}-{run}", hold_s=options.hold_s, former=options.former)
                )
                if faults := [*one.lost, *one.doubled, *one.set_back]:
                    sys.stderr.write(f"{name}, run {run}: {faults}\n")
                found.append(one)
            faults = [
                sum(len(values) for values in column)
                for column in (
                    [one.lost for one in found],
                    [one.doubled for one in found],
                    [one.set_back for one in found],
                )
            ]
            bad += sum(faults)
            row = [
                name.replace("_", " "),
                len(found),
                sum(one.accepted for one in found),
                sum(one.attempts for one in found),
            ]
            sys.stdout.write(f"| {' | '.join(map(str, [*row, *faults]))} |\n")
            sys.stdout.flush()
    finally:
        postgres.close()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
