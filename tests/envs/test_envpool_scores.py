"""Reference scores of envpool's tasks against the numbers that papers report."""

import re

import pytest

from mtrl_jax.envs import envpool_scores

# random/human after 30 minutes with no-op starts, under the names of dqn_zoo.
ATARI = """
alien 227.8/7127.7; amidar 5.8/1719.5; assault 222.4/742; asterix 210/8503.3;
asteroids 719.1/47388.7; atlantis 12850/29028.1; bank_heist 14.2/753.1;
battle_zone 2360/37187.5; beam_rider 363.9/16926.5; berzerk 123.7/2630.4;
bowling 23.1/160.7; boxing 0.1/12.1; breakout 1.7/30.5; centipede 2090.9/12017;
chopper_command 811/7387.8; crazy_climber 10780.5/35829.4; defender 2874.5/18688.9;
demon_attack 152.1/1971; double_dunk -18.6/-16.4; enduro 0/860.5;
fishing_derby -91.7/-38.7; freeway 0/29.6; frostbite 65.2/4334.7;
gopher 257.6/2412.5; gravitar 173/3351.4; hero 1027/30826.4; ice_hockey -11.2/0.9;
jamesbond 29/302.8; kangaroo 52/3035; krull 1598/2665.5;
kung_fu_master 258.5/22736.3; montezuma_revenge 0/4753.3; ms_pacman 307.3/6951.6;
name_this_game 2292.3/8049; phoenix 761.4/7242.6; pitfall -229.4/6463.7;
pong -20.7/14.6; private_eye 24.9/69571.3; qbert 163.9/13455; riverraid 1338.5/17118;
road_runner 11.5/7845; robotank 2.2/11.9; seaquest 68.4/42054.7;
skiing -17098.1/-4336.9; solaris 1236.3/12326.7; space_invaders 148/1668.7;
star_gunner 664/10250; surround -10/6.5; tennis -23.8/-8.3; time_pilot 3568/5229.2;
tutankham 11.4/167.6; up_n_down 533.4/11693.2; venture 0/1187.5;
video_pinball 16256.9/17667.9; wizard_of_wor 563.5/4756.5;
yars_revenge 3092.9/54576.9; zaxxon 32.5/9173.3
"""
# min/max of arXiv:1912.01588, appendix C: of the easy levels, then of the hard ones.
PROCGEN = """
bigfish 1/40 0/40; bossfight 0.5/13 0.5/13; caveflyer 3.5/12 2/13.4;
chaser 0.5/13 0.5/14.2; climber 2/12.6 1/12.6; coinrun 5/10 5/10;
dodgeball 1.5/19 1.5/19; fruitbot -1.5/32.4 -0.5/27.2; heist 3.5/10 2/10;
jumper 3/10 1/10; leaper 3/10 1.5/10; maze 5/10 4/10; miner 1.5/13 1.5/20;
ninja 3.5/10 2/10; plunder 4.5/30 3/30; starpilot 2.5/64 1.5/35
"""


def _table(text):
    """Returns {game: one (low, high) or several}."""
    rows = (row.split() for row in text.split(";"))
    return {
        name: [tuple(map(float, x.split("/"))) for x in pairs] for name, *pairs in rows
    }


def _snake(game):
    return re.sub(r"(?<=[a-zA-Z0-9])(?=[A-Z])", "_", game).lower()


def test_ataris_scores_are_the_published_ones():
    """All 57 rows; a digit that is wrong is a score that is wrong."""
    found = {_snake(game): [pair] for game, pair in envpool_scores.ATARI.items()}
    assert len(found) == 57
    assert found == _table(ATARI)
    assert envpool_scores.scores("atari", "Pong-v5") == (-20.7, 14.6)


def test_procgens_scores_are_the_published_ones():
    """Both modes of all 16 games."""
    easy, hard = envpool_scores.PROCGEN_EASY, envpool_scores.PROCGEN_HARD
    assert easy.keys() == hard.keys()
    assert {x.lower(): [easy[x], hard[x]] for x in easy} == _table(PROCGEN)
    assert envpool_scores.scores("procgen", "CoinrunHard-v0") == (5.0, 10.0)


@pytest.mark.parametrize(
    ("family", "task", "options", "limit", "scores"),
    [
        # Another length is another best return, which is known in DM Control alone.
        ("dmc", "CheetahRun-v1", {"max_steps": 100}, 100, (0.0, 100.0)),
        ("procgen", "CoinrunHard-v0", {"max_steps": 100}, 100, (None, None)),
        ("atari", "Pong-v5", {"frame_skip": 4}, 4_499, (None, None)),
        ("atari", "Pong-v5", {"frame_skip": 4}, 4_500, (-20.7, 14.6)),
        # So is another game.
        ("atari", "Pong-v5", {"frame_skip": 4, "mode": 1}, 27_000, (None, None)),
        ("procgen", "CoinrunHard-v0", {"distribution_mode": 0}, 1_000, (None, None)),
    ],
)
def test_scores_are_those_of_the_game_that_is_played(
    family, task, options, limit, scores
):
    """Normalised by those of another, no return means anything."""
    assert envpool_scores.scores(family, task, options, limit) == scores
