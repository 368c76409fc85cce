"""Submit: what reaches Kubeflow, what is said of a run, and how each mistake reads."""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfpserver import Kubeflow, serving

from pipelines import __main__ as command
from pipelines import package, submit

PACKAGE = {
    "pipelineInfo": {"name": "croco-preference"},
    "components": {"comp-for-loop-1": {"dag": {"tasks": {"sample": {"taskInfo": {"name": "Sample answers"}}}}}},
    "root": {
        "dag": {
            "tasks": {
                "resolve": {"taskInfo": {"name": "Resolve revisions"}},
                "for-loop-1": {"taskInfo": {"name": "sample and score"}, "parameterIterator": {}},
            }
        },
        "inputDefinitions": {
            "parameters": {
                "policy": {"parameterType": "STRING"},
                "n": {"parameterType": "NUMBER_INTEGER", "defaultValue": 64.0},
                "beta": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 0.1},
                "languages": {"parameterType": "LIST", "defaultValue": ["da"]},
                "strict": {"parameterType": "BOOLEAN", "defaultValue": False},
                "top_k": {"parameterType": "NUMBER_INTEGER", "isOptional": True},
            }
        },
    },
}


@pytest.fixture
def kubeflow() -> Iterator[Kubeflow]:
    with serving() as state:
        yield state


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The package and the parameters, as flags."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "package.yaml").write_text(yaml.safe_dump(PACKAGE))
    (tmp_path / "params.yaml").write_text("policy: org/model\nlanguages: [da, nl]\ntop_k:\n")
    return ["--package", str(tmp_path / "package.yaml"), "--params", str(tmp_path / "params.yaml")]


def at(kubeflow: Kubeflow, *more: str) -> list[str]:
    return ["--host", kubeflow.host, "--every", "0.01", *more]


def task(name: str, state: str, number: int, **more: Any) -> dict[str, Any]:
    created = f"2026-11-21T00:00:{number:02}Z"
    return {"task_id": f"{name}-{number}", "display_name": name, "state": state, "create_time": created, **more}


def test_a_package_is_uploaded_and_run_with_the_parameters(
    kubeflow: Kubeflow, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["submit", *at(kubeflow, "--name", "first", "--no-wait"), *flags]) == 0
    (run,) = kubeflow.lists["runs"]
    (version,) = kubeflow.versions
    sha256 = package.read(Path(flags[1])).sha256
    assert version["display_name"] == sha256[:12] and version["description"] == f"sha256:{sha256}"
    assert run["runtime_config"] == {"parameters": {"policy": "org/model", "languages": ["da", "nl"]}}
    assert run["pipeline_version_reference"] == {
        "pipeline_id": kubeflow.lists["pipelines"][0]["pipeline_id"],
        "pipeline_version_id": version["pipeline_version_id"],
    }
    assert run["service_account"] == "croco-runner"
    assert run["description"] == f"package {sha256[:12]}; since the last run: it is the first"
    assert [one["display_name"] for one in kubeflow.lists["experiments"]] == ["croco"]
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"uploaded version {sha256[:12]} of croco-preference",
        f"first: {kubeflow.host}/#/runs/details/{run['run_id']}",
    ]


def test_the_same_package_is_uploaded_once_and_another_is_a_new_version(
    kubeflow: Kubeflow, flags: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        assert command.main(["submit", *at(kubeflow, "--no-wait"), *flags]) == 0
    assert len(kubeflow.versions) == 1
    (tmp_path / "package.yaml").write_text(yaml.safe_dump(PACKAGE) + "# another\n")
    (tmp_path / "params.yaml").write_text("policy: org/model\nn: 8\n")
    assert command.main(["submit", *at(kubeflow, "--no-wait"), *flags]) == 0
    old, new = [version["display_name"] for version in kubeflow.versions]
    assert kubeflow.lists["runs"][2]["description"] == (
        f"package {new}; since the last run: package {old} -> {new}; languages ['da', 'nl'] -> default; n default -> 8"
    )
    assert len(kubeflow.lists["pipelines"]) == 1


def test_what_is_behind_the_first_page_is_found(kubeflow: Kubeflow, flags: list[str]) -> None:
    command.main(["submit", *at(kubeflow, "--no-wait"), *flags])
    pipeline = kubeflow.lists["pipelines"][0]["pipeline_id"]
    others = [
        {"pipeline_id": pipeline, "pipeline_version_id": f"v{n}", "display_name": f"other {n}"} for n in range(250)
    ]
    kubeflow.versions[:0] = others
    command.main(["submit", *at(kubeflow, "--no-wait"), *flags])
    assert len(kubeflow.versions) == 251


def test_a_name_that_differs_in_case_is_another(kubeflow: Kubeflow, flags: list[str]) -> None:
    kubeflow.lists["experiments"].append({"experiment_id": "e", "display_name": "CROCO"})
    command.main(["submit", *at(kubeflow, "--no-wait"), *flags])
    assert kubeflow.lists["runs"][0]["experiment_id"] != "e"


def test_a_dry_run_sends_nothing(kubeflow: Kubeflow, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["submit", *at(kubeflow, "--dry-run"), *flags]) == 0
    assert kubeflow.requests == []
    assert '{"policy": "org/model", "languages": ["da", "nl"]}' in capsys.readouterr().out


def test_without_a_package_it_is_compiled_as_the_flags_say(
    kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert command.main(["submit", *at(kubeflow, "--no-wait", "--profile", "toy", "--allow-tags")]) == 0
    assert len(kubeflow.versions) == 1 and len(kubeflow.lists["runs"]) == 2
    capsys.readouterr()
    assert command.main(["submit", *at(kubeflow)]) == 1
    assert one_line(capsys).startswith("pipelines submit: --images: found croco-cpu")


def test_a_run_is_watched_to_its_end(kubeflow: Kubeflow, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    begun = [task("root-driver", "SUCCEEDED", 1), task("resolve", "SUCCEEDED", 2), task("resolve-driver", "RUNNING", 2)]
    kubeflow.timeline = [
        {"state": "PENDING"},
        {"state": "RUNNING", "run_details": {"task_details": [task("resolve", "RUNNING", 2)]}},
        {"state": "RUNNING", "run_details": {"task_details": [*begun, task("sample", "RUNNING", 3)]}},
        {"state": "RUNNING", "run_details": {"task_details": [*begun, task("sample", "RUNNING", 3)]}},
        {
            "state": "SUCCEEDED",
            "run_details": {"task_details": [task("sample", "SUCCEEDED", 4), task("sample", "SUCCEEDED", 3), *begun]},
        },
    ]
    assert command.main(["submit", *at(kubeflow, "--name", "r"), *flags]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "Resolve revisions  running",
        "Resolve revisions  succeeded",
        "Sample answers     running",
        "Sample answers     2 succeeded",
        "r: succeeded",
    ]


@pytest.mark.parametrize(
    ("last", "status", "said"),
    [
        (
            {
                "state": "FAILED",
                "error": {"message": "run failed"},
                "run_details": {"task_details": [task("sample(1)", "FAILED", 1, error={"message": "exit\ncode 1"})]},
            },
            1,
            ["r: failed", "  Sample answers: exit code 1", "  run failed"],
        ),
        (
            {"state": "FAILED", "run_details": {"task_details": [task("sample", "FAILED", 1)]}},
            1,
            ["r: failed", "  Sample answers: failed; its log is behind the link"],
        ),
        ({"state": "CANCELED"}, 3, ["r: canceled"]),
        ({"state": "SKIPPED"}, 0, ["r: skipped"]),
    ],
)
def test_the_exit_status_says_how_the_run_ended(
    last: dict[str, Any],
    status: int,
    said: list[str],
    kubeflow: Kubeflow,
    flags: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    kubeflow.timeline = [last]
    assert command.main(["submit", *at(kubeflow, "--name", "r"), *flags]) == status
    assert capsys.readouterr().out.splitlines()[-len(said) :] == said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_table_is_written_over(kubeflow: Kubeflow, flags: list[str]) -> None:
    kubeflow.timeline = [
        {"state": "RUNNING", "run_details": {"task_details": [task("resolve", "RUNNING", 1)]}},
        {"state": "SUCCEEDED", "run_details": {"task_details": [task("resolve", "SUCCEEDED", 1)]}},
    ]
    parser = argparse.ArgumentParser()
    submit.add_flags(parser)
    screen = Terminal()
    submit.main(parser.parse_args([*at(kubeflow, "--name", "r"), *flags]), screen)
    table = "\x1b[KResolve revisions  running\n\x1b[1A\x1b[KResolve revisions  succeeded\nr: succeeded\n"
    assert screen.getvalue().endswith(table)


def test_a_server_that_is_away_for_a_moment_does_not_end_the_watch(
    kubeflow: Kubeflow, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.timeline = [{"state": "RUNNING"}, {"state": "SUCCEEDED"}]
    create = kubeflow.create

    def then_away(kind: str, body: dict[str, Any]) -> dict[str, Any]:
        kubeflow.away = 3 if kind == "runs" else 0
        return create(kind, body)

    monkeypatch.setattr(kubeflow, "create", then_away)
    assert command.main(["submit", *at(kubeflow), *flags]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy: a\nanswers: 8", "found parameter 'answers'; expected one of beta, languages, n, policy, "),
        ("n: 8", "found no policy; expected one, for it has no default"),
        ("policy: 7", "found policy: 7; expected string; put it in quotes"),
        ("policy: a\nn: 8.5", "found n: 8.5; expected integer"),
        ("policy: a\nn: true", "found n: True; expected integer"),
        ("policy: a\nbeta: '0.1'", "found beta: '0.1'; expected double"),
        ("policy: a\nstrict: 1", "found strict: 1; expected boolean"),
        ("policy: a\nlanguages: da", "found languages: 'da'; expected list"),
        ("policy: a\nlanguages: [da, no]", "found languages with False; expected texts; YAML reads no, yes, on, off"),
        ("policy: mod\u00e8le", "expected ASCII, for Kubeflow's database holds no more"),
        ("- policy", "found a list; expected lines of `parameter: value`"),
        ("policy: [", "found no YAML (line 1)"),
    ],
)
def test_wrong_parameters_are_named_before_anything_is_sent(
    text: str,
    message: str,
    kubeflow: Kubeflow,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert command.main(["submit", *at(kubeflow), *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"pipelines submit: {tmp_path / 'params.yaml'}: found") and message in error
    assert len(error.splitlines()) == 1 and kubeflow.requests == []


def test_everything_that_is_wrong_is_named_at_once(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("n: x\nanswers: 1")
    with pytest.raises(ValueError, match=r"found n: 'x'.*found parameter 'answers'.*found no policy"):
        package.read_parameters(tmp_path / "params.yaml", package.read(Path(flags[1])))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_an_unreachable_host_is_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as gone:
        host = gone.host
    assert command.main(["submit", "--host", host, *flags]) == 1
    line = one_line(capsys)
    assert line.startswith(f"pipelines submit: {host}: found no answer (") and "Connection refused" in line
    assert "kubectl port-forward" in line


def test_no_host_is_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["submit", *flags]) == 1
    assert "--host: found none; expected Kubeflow's URL, there or in $KF_PIPELINES_ENDPOINT" in one_line(capsys)


def test_an_expired_token_is_one_line_without_the_token(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("stale-secret\n")
    with serving(Kubeflow(token="fresh-secret")) as kubeflow:
        given = [*at(kubeflow, "--no-wait"), *flags, "--token-file", str(tmp_path / "token")]
        assert command.main(["submit", *given]) == 1
        line = one_line(capsys)
        assert "found HTTP 401 (Unauthenticated: the token has expired); expected credentials that are valid" in line
        assert "--token-file" in line and "secret" not in line
        (tmp_path / "token").write_text("fresh-secret")
        assert command.main(["submit", *given]) == 0


def test_a_gateways_cookie_goes_by_a_file(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "cookie").write_text("authservice_session=abc\n")
    with serving(Kubeflow(cookie="authservice_session=abc")) as kubeflow:
        assert command.main(["submit", *at(kubeflow, "--no-wait"), *flags]) == 1
        given = [*at(kubeflow, "--no-wait"), *flags, "--cookies-file", str(tmp_path / "cookie")]
        assert command.main(["submit", *given]) == 0


def test_a_login_page_is_told_from_an_api(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Kubeflow(login=True)) as kubeflow:
        assert command.main(["submit", *at(kubeflow), *flags]) == 1
    assert "found text/html; expected JSON, as Kubeflow's API answers" in one_line(capsys)


def test_several_users_need_a_namespace(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Kubeflow(multi_user=True)) as kubeflow:
        assert command.main(["submit", *at(kubeflow, "--no-wait"), *flags]) == 1
        assert "expected --namespace, the profile to run in" in one_line(capsys)
        assert command.main(["submit", *at(kubeflow, "--no-wait", "--namespace", "team"), *flags]) == 0
        assert kubeflow.lists["pipelines"][0]["namespace"] == kubeflow.lists["experiments"][0]["namespace"] == "team"


def test_a_package_that_is_not_there_says_how_it_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["submit", "--host", "http://x", "--package", str(tmp_path / "p.yaml")]) == 1
    assert "found no file; expected a package; `python -m pipelines compile --out" in one_line(capsys)


def test_the_pipelines_own_package_takes_a_params_file(tmp_path: Path) -> None:
    out = tmp_path / "preference.yaml"
    assert command.main(["compile", "--out", str(out), "--profile", "toy", "--allow-tags"]) == 0
    real = package.read(out)
    assert package.read_parameters(None, real) == {}
    (tmp_path / "params.yaml").write_text(json.dumps({"languages": ["da", "no"], "n": 8, "learning_rate": 1}))
    assert package.read_parameters(tmp_path / "params.yaml", real)["n"] == 8
    assert real.titles["sample"] == "Sample answers" and not any("for-loop" in name for name in real.titles)
