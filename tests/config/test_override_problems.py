"""What of a command line is an override, and what is printed about several values of one."""

from __future__ import annotations

from vqr1.config.override_problems import _given, _several


def test_values_of_options_are_no_overrides() -> None:
    given = _given(["seed=1", "--cfg", "job", "rewrd=mse"])
    assert [one.typed for one in given] == ["seed=1", "rewrd=mse"]


def test_of_a_sweep_the_first_values_are_composed() -> None:
    arguments = ["-m", "a=1,2", "b=range(1,1)", "reward=glob(x*)", "c=interval(2,3)", "d=4"]
    # An empty range has none, and those of a glob are not known without the configuration.
    assert [one.composed for one in _given(arguments)] == ["a=1", "c=2.0", "d=4"]


def test_several_tasks_are_added() -> None:
    assert "tasks=a,b: several of them together are tasks=a+b;" in _several("tasks=a,b")
