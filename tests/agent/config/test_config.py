"""Settings: later sources win, origins are told, unknown keys name the nearest known one."""

from pathlib import Path

import pytest

from agent.config.load import load_config
from agent.config.meanings import defaults
from agent.config.settings import Config, HostingSettings
from agent.config.stored import differing, with_problems_of
from agent.hosting.open_hosts import open_hosts
from search.errors import SearchSettingsError, UsageError
from store.selection import SelectionRule


def origins(flags: dict[str, object], file: str = "") -> dict[str, tuple[object, str]]:
    _, settings = load_config(flags, file)
    return {s.key: (s.value, s.origin) for s in settings}


def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.toml"
    file.write_text("seed = 1\nrun = 'a'\n[search]\nsimulations = 2\nmin_width = 3\n")
    monkeypatch.setenv("RATCHET_SEARCH__SIMULATIONS", "5")
    monkeypatch.setenv("RATCHET_RUN", "b")
    found = origins({"run": "c"}, str(file))
    assert found["seed"] == (1, str(file))
    assert found["search.simulations"] == (5, "environment RATCHET_SEARCH__SIMULATIONS")
    assert found["search.min_width"] == (3, str(file))
    assert found["run"] == ("c", "flag")
    assert found["task"] == ("expressions", "default")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("serch.simulations", "search.simulations"),
        ("simulations", "search.simulations"),
        ("training.num_step", "training.num_steps"),
        ("polcy", "policy"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        load_config({key: 1})
    assert key in error.value.message and near in error.value.fix


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("training.num_steps", 0),
        ("training.num_steps", "many"),
        ("task", "chess"),
        ("evaluation.gate_p", 1.5),
        ("hosting.device", "tpu"),
        ("training.optimizer", "sgd"),
    ],
)
def test_a_bad_value_is_named_with_its_key(key: str, value: object) -> None:
    with pytest.raises(UsageError) as error:
        load_config({key: value})
    assert key in error.value.message and repr(value) in error.value.message


def test_contradictory_search_settings_are_refused() -> None:
    with pytest.raises((SearchSettingsError, UsageError), match="min_width"):
        load_config({"search.min_width": 99})


def test_widths_may_be_lists_from_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("[search]\nmax_width = [16, 8]\n")
    assert load_config({}, str(file))[0].search.max_width == (16, 8)
    config, _ = load_config({"search.max_width": "[40, 10]", "search.min_width": "3"})
    assert (config.search.max_width, config.search.min_width) == ((40, 10), 3)
    with pytest.raises(UsageError, match=r"'search.max_width' is '\[8;4\]'"):
        load_config({"search.max_width": "[8;4]"})


def test_the_digest_ignores_places_and_hosting_and_nothing_else() -> None:
    base = Config().digest()
    assert load_config({"store": "sqlite:///x.db", "hosting.threads": 2})[0].digest() == base
    for key, value in (("seed", 1), ("search.simulations", 3), ("training.num_steps", 7)):
        assert load_config({key: value})[0].digest() != base


def test_every_setting_is_listed_with_its_own_default() -> None:
    _, values = load_config({})
    assert {s.key: s.value for s in values if s.key != "search.max_width"} == {
        key: value for key, value in defaults().items() if key != "search.max_width"
    }
    assert all(s.origin == "default" for s in values)


def test_settings_and_the_rule_made_of_them_have_the_same_defaults() -> None:
    assert SelectionRule() == SelectionRule(**Config().selection.model_dump())


def test_settings_that_rule_each_other_out_are_refused_together() -> None:
    with pytest.raises(UsageError, match="drawn"):
        load_config({"hosting.engine": "vllm", "search.proposal": "drawn"})


def test_an_engine_that_is_not_installed_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed"):
        open_hosts(HostingSettings(engine="vllm"))


def test_a_runs_own_prompts_are_taken_setting_by_setting() -> None:
    stored = {"task": "jsonl", "problems": "a.jsonl", "answers": "choice"}
    stored |= {"prompt": {"style": "chat", "system": "Be brief.", "num_examples": 2}}
    config = Config.model_validate({"prompt": {"system": "Be long."}})
    found = with_problems_of(config, stored)
    assert (found.task, found.problems, found.answers) == ("jsonl", "a.jsonl", "choice")
    assert (found.prompt.style, found.prompt.system) == ("chat", "Be long.")
    assert found.prompt.num_examples == 2


def test_settings_that_differ_are_named_and_paths_compared_by_where_they_lead() -> None:
    before = Config(problems="a.jsonl", policy="x/../model").model_dump(mode="json")
    now = Config(problems="./a.jsonl", policy="model", seed=3).model_dump(mode="json")
    assert differing(before, now) == ["seed was 0, is 3"]


def test_lengths_that_follow_a_file_are_part_of_what_results_depend_on() -> None:
    """For tasks without files unset lengths are the usual ones, as they always were."""
    usual = {"hosting": {"option_tokens": 48, "text_tokens": 256}}
    assert Config().digest() == Config.model_validate(usual).digest()
    rows = {"task": "jsonl", "problems": "a.jsonl"}
    assert Config.model_validate(rows).digest() != Config.model_validate(rows | usual).digest()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"answers": "choice"}, "answers"),
        ({"prompt.template": "x.txt"}, "prompt.template"),
        ({"prompt.style": "template", "prompt.template": "x", "prompt.system": "s"}, "system"),
    ],
)
def test_settings_without_a_use_are_refused(flags: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        load_config(flags)
    assert error.value.fix
