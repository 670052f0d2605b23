"""What each file of tests may cost: programs that it compiles, and when it is begun."""

# Programs a file may compile by default, operations outside of jit included: a quarter more
# than the 309 of the largest.
BUDGET = 390
# And where cases run that wait for test-all. jax keeps 2,048: beyond, it compiles again.
WITH_SLOW = 650
# Of files that were measured in a process of their own, a quarter more than they compiled.
MEASURED = {
    "agents/test_q_learning.py": 200,
    "engine/test_fused_runner.py": 220,
    "engine/test_pbt_explore.py": 175,
    "experiments/test_stage_learners.py": 390,
    "networks/test_attention.py": 125,
    "networks/test_product.py": 100,
    "test_compiling.py": 20,
}
# The same where only their default cases run, of the most that they compiled alone or
# beside others: a quarter more, at least 20, and 25 for a shared run made elsewhere.
BY_DEFAULT = {
    "agents/test_algorithm_distillation.py": 42,
    "engine/test_member_replay.py": 157,
    "envs/test_labyrinth_oracle.py": 38,
    "experiments/test_demonstrated.py": 57,
    "experiments/test_experiment.py": 80,
    "experiments/test_faults.py": 95,
    "experiments/test_resume.py": 77,
    "experiments/test_schedules_run.py": 87,
    "networks/test_transformer.py": 81,
    "training/test_screen.py": 79,
}
# Files of which each agent's tests, named by their last parameter, may run in another
# process: they share what they compile, and hardly anything with those of others.
APART = ["test_contract.py"]
# Files of a minute and more, the longest first: begun before all others, so that no
# worker is left alone with one of them at the end.
LONG = [
    "test_labyrinth.py",
    "test_contract.py",
    "test_learning.py",
    "test_stages.py",
    "test_resume.py",
    "test_faults.py",
    "test_stage_learners.py",
    "test_labyrinth_oracle.py",
    "test_mix_and_match.py",
    "test_algorithm_distillation.py",
    "test_experiment.py",
    "test_build.py",
    "test_env_contract.py",
    "test_member_replay.py",
    "test_transformer.py",
    "test_schedules_run.py",
    "test_demonstrated.py",
    "test_screen.py",
]


def of(file, slow=False):
    """Returns the budget of a file, named as below tests/; ``slow`` cases of it run."""
    if file in BY_DEFAULT and not slow:
        return BY_DEFAULT[file]
    return MEASURED.get(file, WITH_SLOW if slow else BUDGET)


def rank(name):
    """Returns the place of a file, by its name, among those that are begun first."""
    return LONG.index(name) if name in LONG else len(LONG)
