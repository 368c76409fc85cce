"""Schedule: when it fires, what Kubeflow is told, and how each mistake reads."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfpserver import Kubeflow, serving

from pipelines import __main__ as command
from pipelines import cron

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
PACKAGE = {
    "pipelineInfo": {"name": "croco-preference"},
    "components": {},
    "root": {
        "dag": {"tasks": {}},
        "inputDefinitions": {"parameters": {"n": {"parameterType": "NUMBER_INTEGER", "defaultValue": 64.0}}},
    },
}
MONTHLY = "0 0 3 1 * *"


@pytest.fixture
def kubeflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubeflow]:
    """A server; the package and its parameters are in the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("croco-preference.yaml").write_text(yaml.safe_dump(PACKAGE))
    Path("params.yaml").write_text("n: 8\n")
    with serving() as state:
        yield state


def schedule(kubeflow: Kubeflow, *flags: str) -> int:
    return command.main(["schedule", *flags, "--package", "croco-preference.yaml", "--host", kubeflow.host])


def monthly(kubeflow: Kubeflow, *flags: str) -> int:
    return schedule(kubeflow, "--cron", MONTHLY, "--params", "params.yaml", *flags)


def jobs(kubeflow: Kubeflow) -> list[dict[str, Any]]:
    return kubeflow.lists["recurringruns"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("text", "fires"),
    [
        (MONTHLY, ["2026-12-01 03:00:00", "2027-01-01 03:00:00", "2027-02-01 03:00:00"]),
        ("30 0 12,13 ? * *", ["2026-11-21 13:00:30", "2026-11-22 12:00:30", "2026-11-22 13:00:30"]),
        ("0 */20 12 * * *", ["2026-11-21 12:40:00", "2026-11-22 12:00:00", "2026-11-22 12:20:00"]),
        ("0 0 4 * * MON", ["2026-11-23 04:00:00", "2026-11-30 04:00:00", "2026-12-07 04:00:00"]),
        ("0 0 4 1 * mon", ["2026-11-23 04:00:00", "2026-11-30 04:00:00", "2026-12-01 04:00:00"]),
        ("0 0 4 * jan-feb/1 0,6", ["2027-01-02 04:00:00", "2027-01-03 04:00:00", "2027-01-09 04:00:00"]),
        ("0 0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("0 50/5 23 31 * *", ["2026-12-31 23:50:00", "2026-12-31 23:55:00", "2027-01-31 23:50:00"]),
    ],
)
def test_it_fires_when_the_cron_says(text: str, fires: list[str]) -> None:
    found = cron.parse(text, NOW).next(NOW)
    assert [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in found] == fires
    assert {moment.tzinfo for moment in found} == {UTC}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 3 1 * *", r"found five fields, '0 3 1 \* \*'; expected six.*'0 0 3 1 \* \*' is what they mean elsewhere"),
        ("@monthly", "found '@monthly'; expected six fields, second minute hour"),
        ("0 60 3 1 * *", "found '60' as minute; expected 0 to 59"),
        ("0 0 3 0 * *", "found '0' as day of month; expected 1 to 31"),
        ("0 0 3 1 * 7", "found '7' as day of week; expected 0 to 6 or sun to sat"),
        ("0 0 3 5-2 * *", "found '5-2' as day of month; expected the smaller number first"),
        ("0 0 */0 1 * *", r"found '\*/0' as hour; expected a step of 1 or more"),
        ("0 0 3 L * *", "found 'L' as day of month"),
        ("0 0 3 30 2 ?", "which never fires; expected a day that there is"),
        ("* 0 3 * * *", r"fires 60 times a minute; expected one number of seconds, such as '0 0 3 \* \* \*'"),
    ],
)
def test_a_cron_that_kubeflow_would_refuse_or_read_otherwise_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cron.parse(text, NOW)


def test_a_schedule_is_made_with_its_fire_times(kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert monthly(kubeflow) == 0
    (job,) = jobs(kubeflow)
    assert {name: job[name] for name in ("display_name", "mode", "no_catchup", "max_concurrency")} == {
        "display_name": "croco-preference",
        "mode": "ENABLE",
        "no_catchup": True,
        "max_concurrency": "1",
    }
    assert job["trigger"] == {"cron_schedule": {"cron": MONTHLY}}
    assert job["runtime_config"] == {"parameters": {"n": 8}}
    assert job["pipeline_version_reference"]["pipeline_version_id"] == kubeflow.versions[0]["pipeline_version_id"]
    version = kubeflow.versions[0]["display_name"]
    assert job["description"] == f"package {version}; changed: it is new"
    lines = capsys.readouterr().out.splitlines()
    link = f"{kubeflow.host}/#/recurringrun/details/{job['recurring_run_id']}"
    assert lines[:2] == [f"uploaded version {version} of croco-preference", f"made: croco-preference, {link}"]
    assert len(lines) == 6 and all(
        line.startswith("fires 20") and line.endswith("-01 03:00:00 UTC") for line in lines[3:]
    )


def test_the_same_again_changes_nothing(kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]) -> None:
    monthly(kubeflow)
    (before,) = jobs(kubeflow)
    assert monthly(kubeflow) == 0
    assert jobs(kubeflow) == [before] and len(kubeflow.versions) == 1
    assert "unchanged: croco-preference" in capsys.readouterr().out


def test_another_takes_the_place_of_the_first_and_says_what_changed(kubeflow: Kubeflow) -> None:
    monthly(kubeflow)
    old = kubeflow.versions[0]["display_name"]
    Path("croco-preference.yaml").write_text(yaml.safe_dump(PACKAGE) + "# another\n")
    assert schedule(kubeflow, "--cron", "0 0 4 * * 0") == 0
    (job,) = jobs(kubeflow)
    new = kubeflow.versions[1]["display_name"]
    assert job["description"] == (
        f"package {new}; changed: package {old} -> {new}; cron {MONTHLY} -> 0 0 4 * * 0; n 8 -> default"
    )
    made, deleted = kubeflow.sent("POST")[-1], kubeflow.sent("DELETE")
    assert made.endswith("/recurringruns") and len(deleted) == 1
    assert kubeflow.requests.index(("DELETE", deleted[0])) > kubeflow.requests.index(("POST", made))


def test_a_paused_schedule_stays_paused_when_it_is_replaced(
    kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    monthly(kubeflow)
    assert schedule(kubeflow, "pause", "--name", "croco-preference") == 0
    assert jobs(kubeflow)[0]["status"] == "DISABLED"
    assert schedule(kubeflow, "--cron", "0 0 5 1 * *") == 0
    assert jobs(kubeflow)[0]["status"] == "DISABLED" and jobs(kubeflow)[0]["mode"] == "DISABLE"
    assert "it is paused, as it was; schedule resume --name 'croco-preference' sets it going" in capsys.readouterr().out
    assert schedule(kubeflow, "resume", "--name", "croco-preference") == 0
    assert jobs(kubeflow)[0]["status"] == "ENABLED"


def test_one_of_a_name_is_left_however_many_there_were(kubeflow: Kubeflow) -> None:
    monthly(kubeflow)
    first = jobs(kubeflow)[0]
    others = [{**first, "recurring_run_id": f"o{n}", "display_name": f"other {n}"} for n in range(240)]
    twins = [{**first, "recurring_run_id": "twin", "trigger": {"cron_schedule": {"cron": "0 0 9 * * *"}}}]
    jobs(kubeflow)[:] = [*others, *twins, first]
    assert monthly(kubeflow) == 0
    mine = [job for job in jobs(kubeflow) if job["display_name"] == "croco-preference"]
    assert mine == [first] and len(jobs(kubeflow)) == 241


def test_a_schedule_of_another_pipeline_is_left_alone(kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]) -> None:
    monthly(kubeflow, "--name", "nightly", "--pipeline", "theirs")
    before = [*jobs(kubeflow)]
    assert monthly(kubeflow, "--name", "nightly") == 1
    line = one_line(capsys)
    assert line.startswith("pipelines schedule: schedule 'nightly': found one of another pipeline (http://")
    assert "expected one of croco-preference, or none; choose another --name, or delete that one" in line
    assert jobs(kubeflow) == before and len(kubeflow.versions) == 1


def test_schedules_are_listed(kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]) -> None:
    monthly(kubeflow, "--name", "b")
    monthly(kubeflow, "--name", "a")
    schedule(kubeflow, "pause", "--name", "a")
    jobs(kubeflow).append(
        {**jobs(kubeflow)[0], "display_name": "c", "trigger": {"cron_schedule": {"cron": "0 3 * * *"}}}
    )
    capsys.readouterr()
    assert schedule(kubeflow, "list") == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith(f"a  {MONTHLY}  paused  {kubeflow.host}/#/recurringrun/details/")
    assert second.startswith(f"b  {MONTHLY}  next 20") and "-01 03:00:00 UTC" in second
    assert third.startswith("c  0 3 * * *  next as only Kubeflow knows")


def test_a_schedule_is_deleted(kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]) -> None:
    monthly(kubeflow)
    assert schedule(kubeflow, "delete", "--name", "croco-preference", "--dry-run") == 0
    assert len(jobs(kubeflow)) == 1
    assert schedule(kubeflow, "delete", "--name", "croco-preference") == 0
    assert jobs(kubeflow) == []
    capsys.readouterr()
    assert schedule(kubeflow, "delete", "--name", "croco-preference") == 1
    assert "schedule 'croco-preference': found no such; expected one of: none" in one_line(capsys)


def test_a_dry_run_sends_nothing(kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert monthly(kubeflow, "--dry-run") == 0
    assert kubeflow.requests == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == 'with {"n": 8} and every other parameter\'s default' and len(lines) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--cron: found none; expected six fields"),
        (["--cron", "0 3 1 * *"], "--cron: found five fields"),
        (["pause"], "--name: found none; expected the schedule to pause; `schedule list` shows all"),
    ],
)
def test_a_mistake_is_one_line_and_sends_nothing(
    flags: list[str], message: str, kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert schedule(kubeflow, *flags) == 1
    assert message in one_line(capsys)
    assert kubeflow.requests == []
