"""The fixture that users have, in a pytest of its own; and ``docs/testing.md``, whose files are run."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.server import DEFAULT_API_KEY
from scripts import local_airflow

TEXT = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = {re.match(r"# (\S+\.py)\n", code)[1]: code for code in BLOCKS}


PLUGIN = 'pytest_plugins = ["airflow_provider_sim.emulator.pytest_plugin"]'


@pytest.fixture
def write(pytester):
    """Put files of the page into the inner pytest's folder."""

    def write(*names: str) -> None:
        for name in names:
            path = pytester.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(FILES[name])

    return write


def test_each_example_is_a_file():
    assert sorted(FILES) == ["dags/letters.py", "tests/conftest.py", "tests/test_letters.py", "tests/test_servers.py"]


def test_what_the_fixture_is_said_to_have(emulator):
    table = TEXT[TEXT.index("## The fixture") :]
    told = [cell for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for cell in re.findall(r"`(\w+)", row)]
    assert len(told) > 10
    assert [name for name in told if not hasattr(emulator, name)] == []


@pytest.mark.parametrize("settings", [{}, {"password": "another"}])
def test_the_connection_is_in_the_environment(emulator, settings):
    from airflow_provider_sim.hooks.sim import SimHook

    os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = emulator.connection(**settings)  # the fixture takes it back
    fine, _ = SimHook().test_connection()
    assert fine is not bool(settings)


def test_every_test_has_a_new_server_at_the_same_address(pytester):
    pytester.makeconftest(PLUGIN)
    pytester.makepyfile(
        """
        import os, pytest, requests

        seen = []

        @pytest.mark.parametrize("time", [1, 2])
        def test_it(sim_emulator, time):
            sim_emulator.workflow("own")(dict) if time == 1 else None
            assert ("own" in sim_emulator.state.workflows) is (time == 1)
            assert sim_emulator.requests == []
            requests.get(sim_emulator.url, timeout=5)
            assert len(sim_emulator.requests) == 1
            seen.append(sim_emulator.url)

        def test_the_server_was_the_same_and_the_connection_is_gone():
            assert len(seen) == 2 and len(set(seen)) == 1
            assert "AIRFLOW_CONN_SIM_DEFAULT" not in os.environ

        @pytest.mark.sim_emulator(api_key="another-key", conn_id="elsewhere")
        def test_another(sim_emulator):
            assert sim_emulator.api_key == "another-key" and sim_emulator.url not in seen
            assert sim_emulator.url in os.environ["AIRFLOW_CONN_ELSEWHERE"]
            assert "AIRFLOW_CONN_SIM_DEFAULT" not in os.environ
        """
    )
    pytester.runpytest_subprocess("--strict-markers", "-p", "no:xdist").assert_outcomes(passed=4)


def test_settings_that_make_no_sense_say_so(pytester):
    pytester.makeconftest(PLUGIN)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sim_emulator(profile="v9")
        def test_it(sim_emulator): ...
        """
    )
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*ValueError: *v9*v0.8*"])


def test_the_plugin_is_loaded_on_request_only(pytester):
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "pytest11" not in pyproject["project"]["entry-points"]
    pytester.makepyfile("def test_it(sim_emulator): ...")
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*fixture 'sim_emulator' not found*"])


@pytest.mark.slow
def test_the_examples_without_a_dag(pytester, write):
    write("tests/conftest.py", "tests/test_servers.py")
    pytester.runpytest_subprocess("tests/test_servers.py").assert_outcomes(passed=2)


@pytest.mark.airflow
def test_the_examples_with_a_dag(pytester, write, monkeypatch):
    """As a user has them, and on a real Airflow."""
    write(*FILES)
    home, dags = pytester.path / "airflow", pytester.path / "dags"
    own = local_airflow.environment(home, sim_url="http://unused", sim_key=DEFAULT_API_KEY, dags=dags)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert pytester.run(sys.executable, "-m", "airflow", "db", "migrate").ret == 0
    pytester.runpytest_subprocess("tests").assert_outcomes(passed=6)


def test_names_that_the_package_does_not_have():
    from airflow_provider_sim import emulator

    assert emulator.SimEmulator is SimEmulator
    with pytest.raises(AttributeError, match="no attribute 'Sim'"):
        _ = emulator.Sim
