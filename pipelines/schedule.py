"""Schedule: a package run again and again by Kubeflow.

Kubeflow cannot change a recurring run: `set` makes a new one, then deletes the old. Names are ours to keep unique.
"""

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from pipelines import cron, server, submit
from pipelines.package import Package, changes, read_parameters
from pipelines.server import Server

ACTIONS = ("set", "list", "pause", "resume", "delete")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=ACTIONS, default="set", help="default: set, which makes it or replaces it"
    )
    parser.add_argument("--cron", metavar="'S M H DAY MONTH WEEKDAY'", help="when, in UTC: '0 0 3 1 * *' is monthly")
    submit.add_package_flags(parser)
    submit.add_run_flags(parser)
    parser.add_argument("--name", help="of the schedule (default: the pipeline's)")
    server.add_flags(parser)


def main(flags: argparse.Namespace, screen: TextIO, now: datetime | None = None) -> int:
    """Do what the flags say; the exit status. Raises: as `read_parameters`, `cron.parse` and `server.connect`."""
    now = now or datetime.now(UTC)
    if flags.action == "list":
        return show(server.connect(flags), now, screen)
    if flags.action != "set":
        return act(flags, screen)
    if not flags.cron:
        raise ValueError("--cron: found none; expected six fields, such as '0 0 3 1 * *': monthly, at 03:00 UTC")
    when = cron.parse(flags.cron, now)
    with submit.packaged(flags) as package:
        put(flags, package, read_parameters(flags.params, package), screen)
    for moment in when.next(now):
        print(f"fires {moment:%Y-%m-%d %H:%M:%S} UTC", file=screen)
    return 0


def put(flags: argparse.Namespace, package: Package, parameters: Mapping[str, Any], screen: TextIO) -> None:
    """Have the schedule as the flags say, or say so."""
    name = flags.name or flags.pipeline or package.name
    if flags.dry_run:
        print(f"would schedule version {package.version} of {package.name} as {name!r}", file=screen)
        print(f"with {json.dumps(parameters)} and every other parameter's default", file=screen)
    else:
        replace(server.connect(flags), flags, package, parameters, name, screen)


def schedules(found: Server) -> list[Any]:
    """All schedules of the namespace."""
    lists = found.client.recurring_runs.recurring_run_service_list_recurring_runs
    return list(found.pages(lists, "recurring_runs", namespace=found.namespace))


def named(found: Server, name: str) -> list[Any]:
    """The schedules of this name: more than one where a replacement was cut off."""
    return [job for job in schedules(found) if job.display_name == name]


def replace(
    found: Server,
    flags: argparse.Namespace,
    package: Package,
    parameters: Mapping[str, Any],
    name: str,
    screen: TextIO,
) -> None:
    """Have one schedule of this name, as the flags say; one that was paused stays so.

    Raises: FileExistsError if there is one of another pipeline.
    """
    pipeline_name = flags.pipeline or package.name
    old = named(found, name)
    mine = found.pipeline(pipeline_name)
    for job in old:
        if mine is None or job.pipeline_version_reference is None or job.pipeline_version_reference.pipeline_id != mine:
            raise FileExistsError(
                f"schedule {name!r}: found one of another pipeline ({link(found, job)}); expected one of "
                f"{pipeline_name}, or none; choose another --name, or delete that one: schedule delete --name {name!r}"
            )
    pipeline, version, uploaded = found.publish(package, pipeline_name)
    print(f"{'uploaded' if uploaded else 'found'} version {package.version} of {pipeline_name}", file=screen)
    wanted = body(found, flags, parameters, name, (pipeline, version))
    wanted.experiment_id = found.made_experiment(flags.experiment)
    same = [job for job in old if equal(job, wanted)]
    if same:
        kept, stale = same[0], [job for job in old if job is not same[0]]
        print(f"unchanged: {name}, {link(found, kept)}", file=screen)
    else:
        kept, stale = create(found, wanted, old, package.version), old
        print(f"{'replaced' if old else 'made'}: {name}, {link(found, kept)}", file=screen)
        print(kept.description, file=screen)
    for job in stale:
        delete(found, job)
    if paused(kept):
        print(f"it is paused, as it was; schedule resume --name {name!r} sets it going", file=screen)


def body(
    found: Server, flags: argparse.Namespace, parameters: Mapping[str, Any], name: str, version: tuple[str, str]
) -> Any:
    """A schedule as it is sent; what is missed while it cannot run is not caught up, and one runs at a time."""
    models = found.client.api_models
    return models.V2beta1RecurringRun(
        display_name=name,
        pipeline_version_reference=submit.reference(found, *version),
        runtime_config=submit.runtime(found, parameters, flags.pipeline_root),
        trigger=models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=flags.cron)),
        no_catchup=True,
        max_concurrency="1",
        mode="ENABLE",
        service_account=flags.service_account or None,
    )


def create(found: Server, wanted: Any, old: list[Any], version: str) -> Any:
    """Make the schedule; its description says what is new in it."""
    if old:
        last = max(old, key=lambda job: job.created_at)
        before, cron_before = given(last), last.trigger.cron_schedule
        changed = changes(
            {"cron": cron_before and cron_before.cron, **before},
            {"cron": wanted.trigger.cron_schedule.cron, **given(wanted)},
            (found.version_name(last.pipeline_version_reference), version),
        )
        wanted.description = f"package {version}; changed: {changed}"
        wanted.mode = "DISABLE" if paused(last) else "ENABLE"
    else:
        wanted.description = f"package {version}; changed: it is new"
    return found.call(found.client.recurring_runs.recurring_run_service_create_recurring_run, recurring_run=wanted)


def equal(job: Any, wanted: Any) -> bool:
    """Whether a schedule is as wanted already, paused or not."""

    def about(one: Any) -> tuple[Any, ...]:
        reference, schedule = one.pipeline_version_reference, one.trigger.cron_schedule
        return (
            one.experiment_id,
            reference and reference.pipeline_version_id,
            schedule and schedule.cron,
            given(one),
            bool(one.no_catchup),
            int(one.max_concurrency or 0),
        )

    account, root = wanted.service_account, wanted.runtime_config.pipeline_root  # without, the server has its own
    placed = not root or (job.runtime_config and job.runtime_config.pipeline_root) == root
    return about(job) == about(wanted) and placed and (not account or job.service_account == account)


def given(job: Any) -> dict[str, Any]:
    return dict((job.runtime_config and job.runtime_config.parameters) or {})


def paused(job: Any) -> bool:
    return bool(job.status == "DISABLED" or (job.status is None and job.mode == "DISABLE"))


def act(flags: argparse.Namespace, screen: TextIO) -> int:
    """Pause, resume or delete the schedule of a name. Raises: FileNotFoundError if there is none."""
    if not flags.name:
        raise ValueError(f"--name: found none; expected the schedule to {flags.action}; `schedule list` shows all")
    found = server.connect(flags)
    if not (jobs := named(found, flags.name)):
        known = ", ".join(sorted(job.display_name for job in schedules(found))) or "none"
        raise FileNotFoundError(f"schedule {flags.name!r}: found no such; expected one of: {known}")
    api = found.client.recurring_runs
    for job in jobs:
        if flags.dry_run:
            print(f"would {flags.action} {flags.name}, {link(found, job)}", file=screen)
            continue
        if flags.action == "delete":
            delete(found, job)
        else:
            switch = {
                "pause": api.recurring_run_service_disable_recurring_run,
                "resume": api.recurring_run_service_enable_recurring_run,
            }[flags.action]
            found.call(switch, recurring_run_id=job.recurring_run_id)
        print(f"{flags.action}d: {flags.name}", file=screen)
    return 0


def delete(found: Server, job: Any) -> None:
    """Delete a schedule; its runs stay."""
    found.call(
        found.client.recurring_runs.recurring_run_service_delete_recurring_run, recurring_run_id=job.recurring_run_id
    )


def show(found: Server, now: datetime, screen: TextIO) -> int:
    """All schedules, a line each."""
    for job in sorted(schedules(found), key=lambda job: job.display_name):
        schedule = job.trigger and job.trigger.cron_schedule
        try:
            fires = schedule and f"{cron.parse(schedule.cron, now).next(now, 1)[0]:%Y-%m-%d %H:%M:%S} UTC"
        except ValueError:
            fires = "as only Kubeflow knows"  # made elsewhere, with five fields or every second
        state = "paused" if paused(job) else f"next {fires or 'after an interval'}"
        print(f"{job.display_name}  {schedule.cron if schedule else ''}  {state}  {link(found, job)}", file=screen)
    return 0


def link(found: Server, job: Any) -> str:
    return f"{found.ui}/#/recurringrun/details/{job.recurring_run_id}"
