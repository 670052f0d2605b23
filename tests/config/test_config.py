"""Settings: read, overridden, filled in, written back, compared."""

import math
import pathlib
import tempfile

import pytest
import running

from mtrl_jax import agents, config, errors, hparams
from mtrl_jax.config import agent_settings, loading, resuming

CONFIGS = sorted((running.ROOT / "configs").glob("*.yaml"))
PLAIN = {"tasks": [{"env": "probe/action"}]}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_kit_is_read_and_written_back(path):
    """A file in configs/ has no mistake, and its resolved settings are read as the same."""
    settings = config.load(path)
    written = config.dump(settings)
    copy = path.with_name(f"{path.name} as written")
    assert config.from_dict(_parsed(written), where=str(copy)) == settings


def test_where_alpha_alone_is_searched_every_round_moves_it():
    """Mix&Match's PBT takes a step up or down, and never none."""
    found = []
    for path in CONFIGS:
        settings = config.load(path)
        for stage in getattr(settings, "stages", None) or [settings]:
            population = getattr(stage, "population", None)
            if population and population.pbt and set(population.search) == {"alpha"}:
                found.append(path.stem)
                assert population.pbt.perturb_probability == 1.0, path.name
    assert found == ["mix_and_match_actions", "mix_and_match_architecture"]


def test_the_kit_has_the_configs_it_promises():
    """The names that users start runs by."""
    promised = (
        "quickstart minatar_mixture atari_pong atari_mixture control_envpool "
        "metaworld_mt10"
    )
    assert {path.stem for path in CONFIGS} >= set(promised.split())


def test_a_config_for_an_accelerator_says_so_in_its_first_line():
    """And so does its row of the table; every config has a row."""
    table = (running.ROOT / "configs/README.md").read_text().splitlines()
    rows = {line.split("`")[1]: line for line in table if line.startswith("| `")}
    for path in CONFIGS:
        first = path.read_text().splitlines()[0]
        assert first.startswith("# "), path.name
        assert ("accelerator" in first) == ("accelerator" in rows[path.name]), path.name


def test_the_names_that_stay_are_accepted():
    """The example of the issue, whose names scripts rely on."""
    text = """
        seed: 0
        tasks:
          - {env: gymnax/Breakout-MinAtar, slots: 32, options: {}}
          - {suite: minatar}
        agent: {name: impala, config: {}, hparams: {learning_rate: 6.0e-4}}
        population:
          size: 8
          search: {learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}}
          pbt: {}
        training: {env_steps: 2_000_000, unroll_length: 20, updates_per_chunk: 50}
        evaluation: {every_updates: 500, episodes: 64}
        checkpoint: {every_updates: 500, keep: 3}
    """
    settings = config.from_dict(_parsed(text))
    assert settings.training.env_steps == 2_000_000
    assert settings.population.search["learning_rate"].log


@pytest.mark.parametrize("name", agents.AGENTS)
def test_what_is_not_given_is_written_down(name):
    """The resolved settings hold every field of the agent, given or not."""
    module = agents.get(name)
    some = {hparams.names(module.Hparams)[0]: 0.5}
    given = {**PLAIN, "agent": {"name": name, "hparams": some}}
    resolved = config.to_dict(config.from_dict(given))["agent"]
    defaults = hparams.flatten(module.Hparams())
    assert resolved["hparams"] == {**defaults, **some}
    assert resolved["config"].keys() == module.Config.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    ("path", "value", "off"),
    [
        ("agent.hparams", "0.5", ""),
        ("evaluation.hparams", "0.5", ""),
        ("agent.schedules", "{kind: linear, low: 0.0, high: 0.5}", ".high"),
        ("population.search", "{low: 0.0, high: 0.5}", ".high"),
    ],
)
def test_a_hyperparameter_that_nothing_reads_is_refused(path, value, off):
    """Wherever it is set; where the program reads it, or it is off, it is not."""
    given = {**PLAIN, "agent": {"name": "ppo"}}
    change = f"{path}.distance_cost={value}"
    said = rf"{path}\.distance_cost{off}=0\.5: .*agent\.config\.network\.sharing=soft, or 0"
    with pytest.raises(errors.ConfigError, match=said):
        config.from_dict(config.override(given, [change]))
    soft = "agent.config.network.sharing=soft"
    config.from_dict(config.override(given, [change, soft]))
    config.from_dict(config.override(given, ["agent.hparams.distance_cost=0"]))
    given = {**PLAIN, "agent": {"name": "unreal"}}
    change = f"{path}.feature_cost={value}"
    with pytest.raises(
        errors.ConfigError, match=r"agent\.config\.feature_control=true"
    ):
        config.from_dict(config.override(given, [change]))
    there = "agent.config.feature_control=true"
    config.from_dict(config.override(given, [change, there]))


@pytest.mark.parametrize(
    ("agent", "name", "config_", "needs"),
    [
        (
            "impala",
            "teacher_cost",
            "",
            r"teacher \(a stage's teacher=NAME does\), or 1",
        ),
        ("ppo", "cagrad_c", "combiner: pcgrad", "combiner=cagrad, or 0.5"),
        ("ppo", "rmsprop_eps", "", "optimiser=rmsprop, or 1e-10"),
        ("unreal", "adam_eps", "", "optimiser=adam, or 0.00016"),
        ("progressive", "value_std_min", "", "value_scale=popart or return_scale, or "),
        (
            "rainbow",
            "v_max",
            "distribution: quantile",
            "distribution=categorical, or 10",
        ),
        (
            "policy_distillation",
            "feature_cost",
            "",
            "feature_size of the teachers' feat",
        ),
        ("pqn", "student_tau", "", r"student=\{\}"),
    ],
)
def test_what_an_option_reads_is_refused_without_it(agent, name, config_, needs):
    """Also 0, which seems to switch it off; what stays at its default is none's choice."""
    given = config.override(PLAIN, [f"agent={{name: {agent}, config: {{{config_}}}}}"])
    default = config.from_dict(given).agent.hparams[name]
    config.from_dict(config.override(given, [f"agent.hparams.{name}={default}"]))
    for value in (0.3, 0.9):
        said = rf"agent\.hparams\.{name}={value}: .*agent\.config\.{needs}"
        with pytest.raises(errors.ConfigError, match=said):
            config.from_dict(config.override(given, [f"agent.hparams.{name}={value}"]))


@pytest.mark.parametrize("path", ["agent.hparams", "evaluation.hparams"])
@pytest.mark.parametrize(
    ("outlook", "fits", "beyond", "said"),
    [
        ("{bins: 8}", 20, 500, "from 0 to 20, by agent.config.outlook.low and"),
        ("{bins: 8, low: 1}", 0, -1, "from 1 to 20, by agent.config.outlook.low and"),
        ("{bins: 8, ranges: [[0, 5], [-2, 9]]}", -2, 10, "from -2 to 9, by agent.config"),
    ],
)  # fmt: skip
def test_a_return_beyond_the_range_of_returns_is_no_target(
    path, outlook, fits, beyond, said
):
    """Beyond the range that returns are counted on all are one; the default is no choice."""
    agent = f"agent={{name: decision_transformer, config: {{outlook: {outlook}}}}}"
    given = config.override(PLAIN, [agent])
    config.from_dict(config.override(given, [f"{path}.target={fits}"]))
    with pytest.raises(errors.ConfigError) as error:
        config.from_dict(config.override(given, [f"{path}.target={beyond}"]))
    assert f"{path}.target={beyond}: is counted {said}" in str(error.value)


@pytest.mark.parametrize(
    ("agent", "now"),
    [
        ("impala", "adam_eps or rmsprop_eps"),
        ("algorithm_distillation", "adam_eps"),
        ("bandit", None),
    ],
)
def test_a_hyperparameter_that_was_renamed_is_named(agent, now):
    """In a file and in an override, wherever hyperparameters are set; where it was one."""
    given = {**PLAIN, "agent": {"name": agent, "hparams": {"epsilon": 1e-5}}}
    said = f"agent.hparams.epsilon is now {now}$" if now else r"\.epsilon is unknown"
    with pytest.raises(errors.ConfigError, match=said):
        config.from_dict(given)
    for path, value in (("evaluation.hparams", "1"), ("agent.schedules", "")):
        value = value or "{kind: linear, low: 1.0, high: 2.0}"
        values = config.override(
            {**PLAIN, "agent": {"name": agent}}, [f"{path}.epsilon={value}"]
        )
        with pytest.raises(
            errors.ConfigError, match=said.replace("agent.hparams", path)
        ):
            config.from_dict(values)


def test_members_may_be_given_their_first_values():
    """A list of a search is read, written down and read back; else a word, or neither."""
    search = {"learning_rate": {"low": 0.0, "high": 1.0, "initial": [0.1, 0.2]}}
    given = {**PLAIN, "population": {"size": 2, "search": search}}
    settings = config.from_dict(given)
    assert settings.population.search["learning_rate"].initial == (0.1, 0.2)
    assert config.from_dict(_parsed(config.dump(settings))) == settings
    search["learning_rate"]["initial"] = "zero"
    words = r"search\.learning_rate\.initial='zero': must be 'draw' or 'default'"
    with pytest.raises(errors.ConfigError, match=words):
        config.from_dict(given)


def test_infinity_is_a_value_that_is_read_back():
    """A bound that is switched off survives the file."""
    given = {**PLAIN, "agent": {"hparams": {"max_grad_norm": math.inf}}}
    settings = config.from_dict(given)
    assert config.from_dict(_parsed(config.dump(settings))) == settings
    # What is an environment's or an agent's own, too, of which no type is known here.
    options = {"limit": math.inf, "several": [1.0, -math.inf]}
    given = {"tasks": [{"env": "probe/action", "options": options}]}
    settings = config.from_dict(given)
    assert config.from_dict(_parsed(config.dump(settings))) == settings


@pytest.mark.parametrize(
    "change",
    [
        "tasks.0.options.limit",
        "tasks.0.options.several.1",
        "agent.config.outlook.low",
        "agent.hparams.learning_rate",
    ],
)
def test_what_is_not_a_number_is_refused_wherever_it_is(change):
    """NaN in what is an environment's or an agent's own is named there, as it is given."""
    options = {"limit": 1.0, "several": [1.0, 2.0]}
    given = {
        "tasks": [{"env": "probe/action", "options": options}],
        "agent": {"name": "gato"},
    }
    with pytest.raises(errors.ConfigError, match=f": {change}=nan: must be a number$"):
        config.from_dict(loading.override(given, [f"{change}=.nan"]))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=7", {"seed": 7}),
        ("seed=1e3", {"seed": 1000.0}),
        ("seed=-2.5e-3", {"seed": -0.0025}),
        ("a.b.c=x", {"a": {"b": {"c": "x"}}}),
        ("list.1.x=3", {"list": [{"x": 1}, {"x": 3}]}),
        ("list.0=[4, 5]", {"list": [[4, 5], {"x": 2}]}),
        ("section.x=null", {"section": {"x": None}}),
        ("none.x=1", {"none": {"x": 1}}),
        ("section={y: true}", {"section": {"y": True}}),
        ("name=a=b", {"name": "a=b"}),
        ("steps=2_000_000", {"steps": 2_000_000}),
        ("name=", {"name": None}),
    ],
)
def test_an_override_sets_what_its_dotted_name_says(override, expected):
    """Values are YAML, list items go by number, missing sections are made."""
    values = {"list": [{"x": 1}, {"x": 2}], "section": {"x": 1}, "none": None}
    before = repr(values)
    assert config.override(values, [override]) == {**values, **expected}
    assert repr(values) == before


def test_later_overrides_win():
    """They are applied in order."""
    assert config.override({}, ["a.b=1", "a.b=2", "a.c=3"]) == {"a": {"b": 2, "c": 3}}


def test_differences_name_the_fields_that_differ():
    """Dotted names, with what was and what is."""
    old = config.from_dict(PLAIN)
    changes = ["tasks.0.slots=8", "population.search.discount={low: 0.5, high: 0.9}"]
    new = config.from_dict(config.override(PLAIN, changes))
    changed = resuming.differences(old, new)
    assert changed["tasks.0.slots"] == (32, 8)
    assert changed["population.search.discount.low"] == (None, 0.5)
    assert not [
        name for name in changed if not name.startswith(("tasks", "population"))
    ]
    assert resuming.differences(old, old) == {}


def test_what_is_only_kept_or_shown_moves_no_result():
    """Checkpoints and logs; all else may, be its name much like theirs."""
    for name in ("checkpoint.keep", "checkpoint.replay", "logging.plots"):
        assert not resuming.moves_results(name)
    for name in (
        "evaluation.episodes",
        "agent.hparams.discount",
        "checkpointing",
        "seed",
    ):
        assert resuming.moves_results(name)


def test_settings_cannot_be_changed_by_accident():
    """They are frozen: a run's config.yaml is what it was made from."""
    settings = config.from_dict(PLAIN)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("agent.hparams.discount=1.5", "agent.hparams.discount=1.5: must be from 0"),
        ("evaluation.hparams.temperature=-1", "evaluation.hparams.temperature=-1: "),
        (
            "population.search.lambda_={low: 0.5, high: 1.5}",
            "population.search.lambda_.high=1.5: must be from 0 to 1",
        ),
        (
            "agent.schedules.entropy_cost={kind: linear, low: 0.1, high: -0.1}",
            "agent.schedules.entropy_cost.high=-0.1: must be at least 0",
        ),
        # Infinity means something to limits alone, and what is more is no float32.
        (
            "agent.hparams.learning_rate=.inf",
            "agent.hparams.learning_rate=inf: must be",
        ),
        ("agent.hparams.max_grad_norm=1e39", r"max_grad_norm=1e\+39: .*no limit"),
        ("evaluation.hparams.temperature=.inf", "evaluation.hparams.temperature=inf: "),
        (
            "population.search.entropy_cost={low: 0.5, high: 1e39}",
            r"population.search.entropy_cost.high=1e\+39: must be finite in float32",
        ),
        (
            "agent.schedules.entropy_cost={kind: linear, low: 0.1, high: 1e39}",
            r"agent.schedules.entropy_cost.high=1e\+39: must be finite in float32",
        ),
        (
            "population.pbt={exploit: none, perturb_factor: .inf}",
            "perturb_factor=inf.*above 1.0 and finite",
        ),
    ],
)
def test_a_hyperparameter_beyond_its_bounds_is_refused(change, message):
    """Wherever it is said, by its path: a discount above 1 trains, into nothing."""
    with pytest.raises(errors.ConfigError, match=message):
        config.from_dict(config.override(PLAIN, [change]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "population.search={v_min: {low: -10, high: 12}}",
            r"population\.search\.v_min\.high=12 is not below agent\.hparams\.v_max=10",
        ),
        (
            "agent.schedules={v_max: {kind: linear, low: 10, high: -10}}",
            r"agent\.hparams\.v_min=-10 is not below agent\.schedules\.v_max\.high=-10",
        ),
        ("population.search={v_min: {low: -10, high: -5}}", None),
    ],
)
def test_what_is_ordered_is_so_at_every_value(change, message):
    """Between ends that cross, a distribution has ten times the mass of one."""
    given = config.override(PLAIN, ["agent={name: rainbow}", change])
    if message is None:
        config.from_dict(given)
        return
    with pytest.raises(errors.ConfigError, match=message):
        config.from_dict(given)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("{name: distral, hparams: {beta: 0}}", r"agent\.hparams\.beta=0: must be at"),
        ("{name: ppo, hparams: {adam_eps: 0}}", r"agent\.hparams\.adam_eps=0: must be"),
        (
            "{name: bandit, config: {algorithm: thompson}, hparams: {prior_b: 0}}",
            r"agent\.hparams\.prior_b=0: must be at least",
        ),
        # Without noise and ε it would do the same for ever.
        (
            "{name: rainbow, config: {noisy: false}}",
            r"agent\.hparams\.epsilon_start=0 with agent\.config\.noisy=false",
        ),
        (
            "{name: rainbow, hparams: {noise: 0}}",
            r"agent\.hparams\.epsilon_start=0 with noise=0, epsilon_end=0 and",
        ),
        *(
            (
                f"{{name: {name}, hparams: {{epsilon_start: 0, {other}: 0}}}}",
                rf"agent\.hparams\.epsilon_start=0 with .*{other}=0.*: it would never",
            )
            for name in ("dqn", "pqn")
            for other in ("epsilon_end", "epsilon_updates")
        ),
        (
            "{name: rainbow, hparams: {v_min: 10, v_max: 10}}",
            r"agent\.hparams\.v_min=10 is not below v_max=10",
        ),
        (
            "{name: policy_distillation, hparams: {kl_cost: 0}}",
            r"agent\.hparams\.kl_cost=0, agent\.hparams\.nll_cost=0, agent\.hparams\."
            r"mse_cost=0: .* give one of them, such as agent\.hparams\.kl_cost=1",
        ),
        (
            "{name: policy_distillation, config: {feature_size: 4},"
            " hparams: {kl_cost: 0, feature_cost: 0}}",
            r"agent\.hparams\.feature_cost=0: all costs are 0",
        ),
        (
            "{name: gato, hparams: {action_cost: 0}}",
            r"hparams\.action_cost=0: all costs",
        ),
        (
            "{name: decision_transformer, hparams: {action_cost: 0}}",
            r"hparams\.action_cost=0, agent\.hparams\.return_cost=0: all costs",
        ),
        (
            "{name: gato, config: {outlook: {values: true}}, hparams: {by_value: 0.5}}",
            r"agent\.hparams\.by_value=0\.5 with agent\.hparams\.td_cost=0 and agent\."
            r"hparams\.cql_cost=0: .* give agent\.hparams\.td_cost=1, or by_value=0",
        ),
        (
            "{name: gato, config: {outlook: {values: true}},"
            " hparams: {advantage_cost: 1, expectile_cost: 1}}",
            r"agent\.hparams\.advantage_cost=1 with agent\.hparams\.td_cost=0",
        ),
        (
            "{name: multi_game_decision_transformer, hparams: {return_cost: 0}}",
            r"agent\.hparams\.inferred=1 with agent\.hparams\.return_cost=0",
        ),
    ],
)
def test_hyperparameters_that_do_not_go_together_are_refused(agent, message):
    """By name, before a run that divides by nothing, or never explores."""
    given = PLAIN | {"population": {"size": 1}}
    with pytest.raises(errors.ConfigError, match=message):
        config.from_dict(config.override(given, [f"agent={agent}"]))


@pytest.mark.parametrize(
    "change",
    [
        "agent={name: rainbow, config: {noisy: false}, hparams:"
        " {epsilon_end: 0.1, epsilon_updates: 100}}",
        "agent={name: rainbow, hparams: {noise: 0, epsilon_start: 0.1}}",
        "agent={name: dqn, hparams: {epsilon_start: 0}}",
        "agent={name: dqn, hparams: {epsilon_end: 0, epsilon_updates: 0}}",
        "population.search={epsilon_start: {low: 0, high: 1}}",
        "evaluation.hparams={epsilon_start: 0, epsilon_end: 0}",
    ],
)
def test_what_explores_at_some_time_is_taken(change):
    """By noise, or by ε at its start or its end; tests may be greedy."""
    agent = {"name": "dqn", "hparams": {"epsilon_end": 0}}
    config.from_dict(config.override({**PLAIN, "agent": agent}, [change]))


@pytest.mark.parametrize(
    "change",
    [
        "agent.hparams.nll_cost=1",
        "population={size: 2, search: {nll_cost: {low: 0, high: 1}}}",
        "agent.schedules.kl_cost={kind: linear, low: 0.0, high: 1.0}",
    ],
)
def test_one_cost_that_is_not_0_is_enough(change):
    """Given, searched or scheduled."""
    values = {**PLAIN, "agent": {"name": "policy_distillation"}}
    values = config.override(values, ["agent.hparams.kl_cost=0"])
    read = config.from_dict(config.override(values, [change]))
    assert read.agent.hparams.get("kl_cost", 0) == 0


def test_values_that_are_dealt_go_together_member_by_member():
    """A list is a population's to the end, but where PBT moves it; others are not known."""
    given = PLAIN | {"agent": {"name": "multi_game_decision_transformer"}}

    def read(population):
        return config.from_dict(config.override(given, [f"population={population}"]))

    gates = "return_gate: {low: 0, high: 1, initial: [1, 0]}"
    costs = "return_cost: {low: 0, high: 1, initial: %s}"
    read(f"{{size: 4, search: {{{gates}, {costs % [1, 0]}}}}}")
    with pytest.raises(
        errors.ConfigError,
        match=r"population\.search: member 2: agent\.hparams\.inferred=1 with agent\."
        r"hparams\.return_cost=0: ",
    ):
        read(f"{{size: 4, search: {{{gates}, {costs % [1, 0, 0]}}}}}")
    read(f"{{size: 2, search: {{{gates}, {costs % [1, 0, 0]}}}}}")
    read(f"{{size: 4, search: {{{gates}, return_cost: {{low: 0, high: 1}}}}}}")
    moved = "pbt: {exploit: tournament}"
    read(f"{{size: 4, search: {{{gates}, {costs % [1, 0, 0]}}}, {moved}}}")


def test_a_search_that_begins_at_a_default_has_it_in_its_range():
    """PPO's learning rate of 2.5e-4 was where a search from 1e-6 to 1e-5 began."""
    given = PLAIN | {"agent": {"name": "ppo"}, "population": {"size": 2}}
    field = "population.search.learning_rate={low: 1.0e-6, high: %s, initial: default}"
    with pytest.raises(
        errors.ConfigError,
        match=r"population\.search\.learning_rate\.initial=default: agent\.hparams\."
        r"learning_rate=0\.00025 is not between low=1e-06 and high=1e-05; give",
    ):
        config.from_dict(config.override(given, [field % "1.0e-5"]))
    config.from_dict(config.override(given, [field % "1.0e-2"]))
    own = [field % "1.0e-5", "agent.hparams.learning_rate=5.0e-6"]
    config.from_dict(config.override(given, own))


# Schedules.

LINEAR = {"kind": "linear", "low": 0.02, "high": 0.0}
PLATEAU = {"kind": "plateau", "low": 0.02, "high": 0.0, "step": 0.01, "patience": 3}


@pytest.mark.parametrize("schedule", [LINEAR, PLATEAU])
def test_a_schedule_says_where_its_hyperparameter_starts(schedule):
    """The resolved settings have its low as the value, and are read back as the same."""
    given = {**PLAIN, "agent": {"schedules": {"entropy_cost": schedule}}}
    settings = config.from_dict(given)
    assert settings.agent.hparams["entropy_cost"] == 0.02
    assert agent_settings.hparams(settings).costs.entropy_cost == 0.02
    assert config.from_dict(_parsed(config.dump(settings))) == settings


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("agent.schedules.entropy={LINEAR}", "agent.schedules.entropy entropy_cost?"),
        (
            "population.search.entropy_cost={low: 0, high: 1}",
            "agent.schedules.entropy_cost: population.search.entropy_cost leave out",
        ),
        (
            "agent.hparams.entropy_cost=0.5",
            "agent.hparams.entropy_cost=0.5 agent.schedules.entropy_cost low=0.02",
        ),
        (
            "agent.schedules.entropy_cost.kind=line",
            "agent.schedules.entropy_cost.kind='line' 'linear' 'plateau'",
        ),
        (
            "agent.schedules.entropy_cost.begin=1.5",
            "agent.schedules.entropy_cost.begin=1.5 below 1",
        ),
        (
            "agent.schedules.entropy_cost.high=x",
            "agent.schedules.entropy_cost.high='x' number",
        ),
        (
            "agent.schedules.entropy_cost.high=true",
            "agent.schedules.entropy_cost.high=True number",
        ),
        (
            "agent.schedules.entropy_cost.stop=1",
            "agent.schedules.entropy_cost.stop unknown step",
        ),
        (
            "agent.schedules.entropy_cost={kind: linear, low: 0}",
            "agent.schedules.entropy_cost.high missing",
        ),
        (
            "agent.schedules.entropy_cost={kind: plateau, low: 0, high: 1}",
            "agent.schedules.entropy_cost.step missing",
        ),
        ("agent.schedules.entropy_cost=0.5", "agent.schedules.entropy_cost mapping"),
        ("agent.schedules=linear", "agent.schedules mapping"),
    ],
)
def test_a_schedule_that_cannot_work_is_named(override, words):
    """One line with the dotted name of the field, and one owner per hyperparameter."""
    given = {**PLAIN, "agent": {"schedules": {"entropy_cost": LINEAR}}}
    override = override.replace("{LINEAR}", "{kind: linear, low: 0, high: 1}")
    with pytest.raises(errors.ConfigError) as caught:
        config.from_dict(config.override(given, [override]))
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in words.split() if word not in message], message


def test_a_running_experiment_keeps_its_schedules():
    """Changed, added or left out: the schedule is named."""
    scheduled = {**PLAIN, "agent": {"schedules": {"entropy_cost": LINEAR}}}
    old, plain = config.from_dict(scheduled), config.from_dict(PLAIN)
    change = ["agent.schedules.entropy_cost.end=0.5"]
    changed = config.from_dict(config.override(scheduled, change))
    for was, now in ((old, changed), (old, plain), (plain, old)):
        with pytest.raises(errors.ConfigError, match=r"^agent\.schedules"):
            resuming.check_resumable(was, now)


def _parsed(text):
    """Returns the mapping in a text, read as a file is."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.yaml"
        path.write_text(text)
        return config.read_yaml(path)


@pytest.mark.parametrize(
    ("agent", "change", "message"),
    [
        ("impala", "tasks=[]", "tasks=[]: give at least 1"),
        ("impala", "tasks=[{suite: a, env: b}]", "tasks.0.env='b' with suite='a'; "),
        ("impala", "name=a/b", "name='a/b': must be letters, digits, - and _, a "),
        ("impala", "logging.plots=5", "logging.plots=5: must be true or false"),
        (
            "impala",
            "tasks.0.curriculum={start: {}, threshold: 1}",
            "tasks.0.curriculum.start: give at least 1",
        ),
        (
            "impala",
            "population.search.discount={low: 0, high: 1, initial: [x]}",
            "population.search.discount.initial.0='x': must be a number",
        ),
        (
            "impala",
            "population.search.discount={low: 0, high: 1, initial: x}",
            "population.search.discount.initial='x': must be 'draw' or 'default' or a list",
        ),
        (
            "gato",
            "agent.config.outlook.ranges=[[0], [0, 1]]",
            "agent.config.outlook.ranges.0=[0]: must be a list of 2",
        ),
        (
            "gato",
            "agent.config.outlook.ranges=[[0, 1, 2]]",
            "agent.config.outlook.ranges.0=[0, 1, 2]: must be a list of 2",
        ),
        (
            "gato",
            "agent.config.transformer.hidden=8",
            "agent.config.transformer.hidden=8: must be a list",
        ),
        (
            "mix_and_match",
            "agent.config.components=[{actions: 5}]",
            "agent.config.components.0.actions=5: must be a string or a list",
        ),
        (
            "mix_and_match",
            "agent.config.components=[{actions: [[x]]}]",
            "agent.config.components.0.actions.0.0='x': must be an integer",
        ),
    ],
)
def test_what_is_of_no_use_has_its_whole_path(agent, change, message):
    """In the kit's words, not in those of the library that found it."""
    given = {**PLAIN, "agent": {"name": agent}}
    with pytest.raises(errors.ConfigError) as refused:
        config.from_dict(config.override(given, [change]))
    line = str(refused.value)
    assert line.startswith(f"config: {message}") and "\n" not in line, line
    assert not line.endswith("more)"), line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-3", 1e-3), ("1_000", 1000), ("017", 17), ("0o17", 15), ("0x1f", 31)],
        *[("-.5", -0.5), ("true", True), ("no", "no"), ("1:30", "1:30"), ("~", None)],
        *[("2001-01-01", "2001-01-01"), ("'1e3'", "1e3"), ("0b11", "0b11")],
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    """And thousands may have a _ between them."""
    found = config.override({}, [f"x={text}"])["x"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("field", ["population.size", "training.env_steps"])
def test_true_is_no_number_before_anything_else_is_said_of_it(field):
    """Nor is it 1, of which the members of a population were said to be too few."""
    with pytest.raises(errors.ConfigError, match=f"{field}=True: must be a number"):
        config.from_dict(config.override(PLAIN, [f"{field}=true"]))


@pytest.mark.parametrize("name", ["1e5", "1e-4", "12e3", "1_0e1", "0o7", "7", "no"])
def test_a_name_that_looks_like_a_number_is_still_a_name_when_read_again(name):
    """A run is gone on with from what it wrote down."""
    settings = config.from_dict({"name": name, "tasks": [{"env": "probe/action"}]})
    assert config.from_dict(_parsed(config.dump(settings))) == settings
