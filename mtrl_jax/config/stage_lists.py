"""An experiment as a list of stages: the settings of each kind, and which stage names which.

    online    a run like any other
    collect   a run of learners with a task each; every step they make goes to disk
    offline   learning from what a collect stage, or another folder, has on disk
    evaluate  the frozen weights of a stage on other tasks, episode after episode

Stages run in the order of the list and name earlier ones only, so that there are no
cycles. A stage's settings are complete in themselves: seeds are derived and agents
filled in here, and what is written down is read back as the same.
"""

from __future__ import annotations

import pathlib
import zlib
from typing import Any

import pydantic

from mtrl_jax import errors
from mtrl_jax.config import completion, schema, stage_schema, strict


def from_dict(values: dict, where: str) -> stage_schema.Staged | stage_schema.Stage:
    """Returns the checked settings of an experiment with ``stages``, or of one stage.

    Raises:
      ConfigError: naming ``where``, the stage, the field, what was given, what would work.
    """
    try:
        return _staged(values) if "stages" in values else _stage(values, "", {})
    except ValueError as error:
        raise errors.ConfigError(f"{where}: {error}") from None


def _staged(values: dict) -> stage_schema.Staged:
    for name in values:
        if name not in stage_schema.Staged.model_fields:
            raise ValueError(
                f"{name} is unknown beside stages (there: seed, stages); a stage has its "
                f"own, give stages.0.{name}"
            )
    given = values["stages"]
    if not isinstance(given, list) or not given:
        raise ValueError(f"stages={given!r}: give a list of at least one stage")
    seed = _validated(stage_schema.Staged, {**values, "stages": [_ANY]}, "").seed
    stages: dict[str, stage_schema.Stage] = {}
    for i, stage in enumerate(given):
        at = f"stages.{i}"
        if not isinstance(stage, dict):
            raise ValueError(f"{at}={stage!r}: must be a mapping of names to values")
        own = {"seed": zlib.crc32(f"{seed}/{stage.get('name')}".encode()), **stage}
        made = _stage(own, f"{at}.", stages, [x for x in given if isinstance(x, dict)])
        if made.name in stages:
            raise ValueError(
                f"{at}.name={made.name!r} is taken by another stage; give each its own"
            )
        stages[made.name] = made
    return stage_schema.Staged(seed=seed, stages=list(stages.values()))


def _stage(
    values: dict,
    at: str,
    earlier: dict[str, stage_schema.Stage],
    all_: list[dict] | None = None,
) -> stage_schema.Stage:
    """Returns one stage; ``all_`` are the whole list's, None where it is on its own."""
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in stage_schema.KINDS:
        given = f"={kind!r} is unknown" if "kind" in values else " is missing"
        hint = errors.suggest(str(kind), stage_schema.KINDS)
        raise ValueError(f"{at}kind{given}{hint}")
    if all_ is not None:
        values = _resolved(values, at, earlier, all_)
    config: Any = _validated(stage_schema.KINDS[kind], values, at)
    try:
        completion.check_numbers(values, config)
        _check(config)
        _check_learners(config, earlier)
        config = completion.complete(config)
        completion.check_numbers(values, config)
    except ValueError as error:
        raise ValueError(f"{at}{error}") from None
    return config


def _resolved(
    values: dict, at: str, earlier: dict[str, stage_schema.Stage], all_: list[dict]
) -> dict:
    """Returns the values with what they take from earlier stages filled in."""
    learning = ["online", "collect", "offline"]
    named = {"data": ["collect"]}
    named |= dict.fromkeys(("of", "init_from", "teacher", "watched_by"), learning)
    for field, kinds in named.items():
        name = values.get(field)
        if field in stage_schema.KINDS[values["kind"]].model_fields and isinstance(
            name, str
        ):
            if field != "data" or stage_schema.is_name(name):
                _check_named(name, f"{at}{field}", kinds, earlier, all_)
            else:
                # Wherever the run is resumed from.
                values = {**values, field: str(pathlib.Path(name).absolute())}
    compared = values.get("compare", [])
    for name in compared if isinstance(compared, list) else []:
        kinds = ["online", "collect", "evaluate"]
        _check_named(name, f"{at}compare", kinds, earlier, all_)
    of = values.get("of")
    if isinstance(of, str) and of in earlier:
        watcher = earlier.get(str(values.get("watched_by")))
        values = {**values, **_agent_of(earlier[of], values, at, watcher)}
    teacher = values.get("teacher")
    if isinstance(teacher, str) and teacher in earlier and "of" not in values:
        values = {**values, "agent": _taught_by(earlier[teacher], values, at)}
    return values


def _taught_by(source: stage_schema.Stage, values: dict, at: str) -> Any:
    """Returns the agent's settings with those of its teacher's network filled in."""
    agent, known = values.get("agent", {}), source.agent.config
    if not isinstance(agent, dict) or not isinstance(agent.get("config", {}), dict):
        return agent
    if "network" not in known:
        raise ValueError(
            f"{at}teacher={source.name!r}: agent {source.agent.name} has no network to "
            "be taught by; give a stage of impala, ppo or behaviour_cloning"
        )
    fields = ("network", "value_scale", "normalise_observations")
    made = {name: known[name] for name in fields if name in known}
    given = agent.get("config", {}).get("teacher")
    if given is not None and not _agrees(given, made):
        raise ValueError(
            f"{at}agent.config.teacher: is that of stage {source.name!r}; leave it out"
        )
    return {**agent, "config": {**agent.get("config", {}), "teacher": made}}


def _agent_of(
    source: stage_schema.Stage,
    values: dict,
    at: str,
    watcher: stage_schema.Stage | None,
) -> dict:
    """Returns agent and population of a stage that plays another's learners, frozen.

    They are its source's, without search; a collect stage may have another number.
    """
    agent = {**source.agent.model_dump(mode="json"), "schedules": {}}
    size = source.population.size
    if values["kind"] == "collect":
        # A member for each that watches: they may have a task each.
        size = size if watcher is None else watcher.population.size
        if not _agrees(values.get("agent", agent), agent):
            raise ValueError(
                f"{at}agent: is that of stage {source.name!r}; leave it out, or change "
                "play.hparams"
            )
        own = values.get("population", {})
        own = {"size": size, **own} if isinstance(own, dict) else own
        return {"agent": agent, "population": own}
    members = size if values.get("members") is None else values["members"]
    if type(members) is not int or not 1 <= members <= size:
        raise ValueError(
            f"{at}members={members!r}: stage {source.name!r} has {size}; give 1 to {size}"
        )
    population = schema.PopulationConfig(size=members)
    filled = {"agent": agent, "population": population.model_dump(mode="json")}
    for name, value in filled.items():
        if not _agrees(values.get(name, value), value):
            raise ValueError(
                f"{at}{name}: is that of stage {source.name!r}; leave it out"
            )
    return filled


def _agrees(given: Any, own: Any) -> bool:
    """Returns whether all that is given is so in ``own``.

    What an older version wrote down lacks the settings that have come since.
    """
    if isinstance(given, dict) and isinstance(own, dict):
        return all(name in own and _agrees(x, own[name]) for name, x in given.items())
    return given == own


def _check_named(
    name: Any,
    at: str,
    kinds: list[str],
    earlier: dict[str, stage_schema.Stage],
    all_: list[dict],
) -> None:
    known = isinstance(name, str) and name in earlier
    if known and earlier[name].kind in kinds:
        return
    fitting = [x for x, stage in earlier.items() if stage.kind in kinds]
    works = f"give one of {', '.join(fitting)}" if fitting else "there is none yet"
    what = f"{at}={name!r}: no earlier stage of kind {' or '.join(kinds)}"
    if known:
        what += f" (it is of kind {earlier[name].kind})"
    elif any(stage.get("name") == name for stage in all_):
        what += " (stages run in the order of the list)"
    raise ValueError(f"{what}; {works}")


def _check_learners(config: Any, earlier: dict[str, stage_schema.Stage]) -> None:
    """Raises ValueError unless a stage can begin with its learners."""
    source = earlier.get(stage_schema.links(config).init_from or "")
    if source is not None and source.agent.name != config.agent.name:
        raise ValueError(
            f"init_from={source.name!r}: its learners are of agent "
            f"{source.agent.name}, here agent.name={config.agent.name!r}; give the same"
        )
    if config.kind != "collect":
        return
    if config.of is None:
        if config.watched_by is not None:
            raise ValueError(
                f"watched_by={config.watched_by!r}: without of; what learners note down of "
                "their own steps is recorded by itself, give of, the stage that plays"
            )
        if config.play != stage_schema.Play():
            raise ValueError(
                "play: without of; what a learner does is its agent's, give "
                "agent.hparams, or the stage whose learners play"
            )
        return
    if config.init_from is not None:
        raise ValueError("init_from: with of; give one of them")
    if config.population.search:
        raise ValueError(
            f"population.search: hyperparameters are those of stage {config.of!r}; "
            "leave it out"
        )


def _check(config: Any) -> None:
    """Raises ValueError unless the settings go with the kind of stage."""
    if config.kind == "collect" and config.population.pbt is not None:
        raise ValueError(
            "population.pbt with kind='collect': a history is that of one learner, "
            "which a copy would end; leave it out"
        )
    if config.kind == "evaluate" and config.prompt is not None:
        watched, played = config.prompt.episodes, config.evaluation.episodes
        if watched >= played:
            raise ValueError(
                f"prompt.episodes={watched}: evaluation.episodes are {played}, of which "
                f"none would be the agent's own; give fewer than {played}"
            )
    if config.kind != "offline":
        return
    if config.keep.first_fraction < 1.0 and config.keep.last_fraction < 1.0:
        raise ValueError("keep.last_fraction: with first_fraction; give one of them")
    for name, schedule in config.agent.schedules.items():
        if schedule.kind == "plateau":
            raise ValueError(
                f"agent.schedules.{name}.kind='plateau' with kind='offline': there are "
                "no returns to follow; give linear, cosine or step"
            )
    pbt = config.population.pbt
    if pbt is not None and pbt.exploit == "t_test":
        raise ValueError(
            "population.pbt.exploit='t_test' with kind='offline': there are no episodes "
            "to test; give truncation, tournament, fixed_margin or none"
        )
    judged_by_test = (
        pbt is not None and config.population.fitness.source == "evaluation"
    )
    if judged_by_test and not config.evaluation.held_out:
        raise ValueError(
            "evaluation.held_out=0.0 with population.fitness.source='evaluation': "
            "members are judged by held-out histories, give their share"
        )


def _validated(model: Any, values: dict, at: str) -> Any:
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise ValueError(f"{at}{strict.explain(error, model)}") from None


# Any stage that is one, to check what is beside the list.
_ANY = {"name": "x", "kind": "online", "tasks": [{"env": "x"}]}
