"""Labyrinth's pictures: the observation, golden frames, and the map for people.

Golden frames are compared exactly, and only with the flags that conftest sets: another
optimisation level of XLA may round the edge of a wall to the next row. After a change
that is meant to be seen, write them anew and look at them:

    MTRL_GOLDEN=write pytest tests/envs/test_labyrinth_pixels.py -k golden
"""

import functools
import os
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from mtrl_jax import random
from mtrl_jax.envs import core, labyrinth, mixture, probes
from mtrl_jax.envs.labyrinth import deal, game, levels, pixels, raycast, topdown, world

GOLDEN = pathlib.Path(__file__).parent / "golden"
PARAMS = labyrinth.task("seekavoid_arena_01").params
HEIGHT, WIDTH = pixels.SIZE
_DEAL, _CAST, _WORDS = map(jax.jit, (deal.deal, raycast.cast, world.words))
FIGHT = game.Kind(game.tag, bots=True)
PUZZLE = game.Kind(game.collect, doors=True)
FORAGE = game.Kind(game.collect)


def scene(walls=(), things=(), position=(5.5, 5.5), yaw=0.0):
    """Returns a state in an open square of 11 x 11 cells with walls (column, row)."""
    cells = np.ones((world.SIZE, world.SIZE), bool)
    cells[1:10, 1:10] = False
    for column, row in walls:
        cells[row, column] = True
    state = _DEAL(jax.random.key(0), PARAMS)
    kinds = np.zeros(world.THINGS, np.int32)
    places = np.zeros((world.THINGS, 2), np.float32)
    for k, (kind, x, y) in enumerate(things):
        kinds[k], places[k] = kind, (x, y)
    there = np.arange(world.THINGS) < len(things)
    body = jax.jit(deal.new_body)(np.zeros(2, np.int32), np.float32(yaw))
    return state._replace(
        walls=_WORDS(cells),
        things=world.Things(kinds, places, there),
        body=body._replace(position=np.float32(position)),
        texture=np.uint32(7),
    )


@functools.cache
def observer(kind):
    """Returns the compiled (state, params) -> picture of a kind of level."""
    return jax.jit(pixels.observer(pixels.SIZE, kind))


@functools.cache
def dealer(kind):
    return jax.jit(kind.deal)


def changed_observer(name, value):
    """Returns the picture of a state, drawn with another constant of the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, name, value)
        observe = jax.jit(pixels.observer.__wrapped__(pixels.SIZE, FORAGE))
        observe = observe.lower(scene(), PARAMS).compile()
    return lambda state: np.asarray(observe(state, PARAMS))


@pytest.fixture(name="see", scope="module")
def _see():
    """Returns the picture of a state, as a numpy array."""
    return lambda state, params=PARAMS: np.asarray(observer(FORAGE)(state, params))


@pytest.fixture(name="see_plain", scope="module")
def _see_plain():
    """Returns the picture with black walls: which of it is wall can be seen."""
    return changed_observer("_WALL_COLOURS", np.zeros_like(pixels._WALL_COLOURS))


@pytest.fixture(name="see_left", scope="module")
def _see_left():
    """Returns the picture with walls that are white on the left alone."""
    left = np.full_like(pixels._WALL_WORDS, 0)
    left[:, :10] = 0xFFFFFFFF
    return changed_observer("_WALL_WORDS", left)


def is_wall(picture):
    return (picture == 0).all(-1)


def moved(state, **body):
    new = {name: np.float32(value) for name, value in body.items()}
    return state._replace(body=state.body._replace(**new))


def test_a_column_of_wall_is_as_high_as_its_depth_says(see_plain):
    """Rows of wall are those whose line of sight is at heights 0 to 1 where it stands."""
    state = scene(walls=[(7, 4), (8, 5), (7, 6)], yaw=0.3)
    right = ((np.arange(WIDTH) + 0.5) / WIDTH * 2 - 1).astype(np.float32)
    cos, sin = np.cos(0.3), np.sin(0.3)
    ray = np.float32([cos - sin * right, sin + cos * right])
    depth = np.asarray(_CAST(state.walls, state.body.position, ray).distance)
    rows = np.clip(WIDTH / 2 / depth, 0, HEIGHT)
    np.testing.assert_allclose(is_wall(see_plain(state)).sum(0), rows, atol=1.01)


def test_a_rotated_world_gives_the_same_view(see_plain):
    """Turning map, things and agent by a right angle changes nothing that is seen."""
    walls = [(7, 4), (8, 6), (4, 2), (2, 7)]
    things = [(world.APPLE, 7.5, 5.5), (world.LEMON, 5.5, 3.0)]
    turned = scene(
        [(10 - row, column) for column, row in walls],
        [(kind, 11 - y, x) for kind, x, y in things],
        yaw=0.4 + np.pi / 2,
    )
    a, b = see_plain(scene(walls, things, yaw=0.4)), see_plain(turned)
    assert is_wall(a).any() and not is_wall(a).all()
    # The edge of something may be rounded to the other side.
    assert (a != b).any(-1).mean() < 0.005


@pytest.mark.parametrize("yaw", [0.0, np.pi / 2, np.pi, -np.pi / 2])
def test_textures_are_not_mirrored_on_any_side(see_left, yaw):
    """The left third of a face is on the left, from wherever it is seen."""
    ahead = np.asarray([np.cos(yaw), np.sin(yaw)])
    wall = np.floor(np.asarray([5.5, 5.5]) + 2 * ahead).astype(int)
    picture = see_left(scene([tuple(wall)], yaw=yaw)).astype(int)
    row = picture[HEIGHT // 2]
    face = slice(WIDTH // 2 - 15, WIDTH // 2 + 15)  # a cell wide, 1.5 ahead
    assert abs(row[face][1] - row[face][-2]).sum() > 30
    assert (row[face][1] == row[face][7]).all()
    assert (row[face][-2] == row[face][12]).all()


def test_a_thing_behind_a_wall_is_invisible(see):
    """What a wall hides is not drawn; without that wall it is."""
    apple = [(world.APPLE, 8.5, 5.5)]
    shut = [(7, row) for row in range(1, 10)]
    np.testing.assert_array_equal(see(scene(shut, apple)), see(scene(shut)))
    assert (see(scene([], apple)) != see(scene())).any()


def test_a_thing_half_behind_a_corner_is_cut_there(see):
    """The depth test is made for every column, not for the thing as a whole."""
    apple = [(world.APPLE, 8.5, 6.5)]

    def elements(corner, row):
        with_apple, without = (
            scene(corner, apple, (5.5, row)),
            scene(corner, [], (5.5, row)),
        )
        return (see(with_apple) != see(without)).any(-1).sum()

    assert elements([(7, 5)], 6.5) == elements([], 6.5)
    assert 0 < elements([(7, 5)], 5.5) < 0.8 * elements([], 5.5)


def test_the_nearer_of_two_things_is_drawn(see):
    """A lemon before an apple hides it, in whatever order they are listed."""
    near, far = (world.LEMON, 6.5, 5.5), (world.APPLE, 6.9, 5.5)
    for things in ([near, far], [far, near]):
        middle = see(scene([], things))[HEIGHT // 2 + 12, WIDTH // 2].astype(int)
        assert middle[0] > 150 and middle[1] > 150 and middle[2] < 100


@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        (world.APPLE, [1, 0, 0]),
        (world.LEMON, [1, 1, 0]),
        (world.MELON, [0, 1, 0]),
        (world.GOAL, [1, 1, 0]),
    ],
)
def test_things_have_their_colours_and_places(see, kind, channels):
    """Apples are red, lemons and the goal yellow, melons green; melons hang."""
    with_thing, without = see(scene([], [(kind, 6.7, 5.5)])), see(scene())
    drawn = (with_thing != without).any(-1)
    colour = np.median(with_thing[drawn].astype(int), axis=0)
    assert ((colour > 0.85 * colour.max()) == np.asarray(channels, bool)).all(), colour
    rows = drawn.any(1).nonzero()[0]
    above, below = rows.min() < HEIGHT // 2 - 3, rows.max() > HEIGHT // 2 + 3
    assert above == (kind in (world.MELON, world.GOAL))
    assert below == (kind != world.MELON)


def test_hidden_things_do_not_show(see):
    """A level with hidden things looks as if there were none."""
    state = scene([], [(world.GOAL, 7.5, 5.5)])
    hidden = PARAMS._replace(hidden=np.bool_(True))
    np.testing.assert_array_equal(see(state, hidden), see(scene()))
    assert (see(state) != see(scene())).any()


def test_bots_are_drawn_unless_they_are_away():
    """A tagged bot is gone from the picture until it comes back."""
    observe = observer(FIGHT)
    state = scene()
    places = np.float32([[7.0, 5.5], [1.5, 1.5], [1.5, 1.5]])

    def see(away):
        gone = np.int32([away, world.NEVER, world.NEVER])
        bots = state.bots._replace(position=places, away=gone)
        return np.asarray(observe(state._replace(bots=bots), PARAMS))

    drawn = (see(0) != see(3)).any(-1)
    # A figure, higher than it is wide, in the middle.
    rows, columns = drawn.any(1).sum(), drawn.any(0).sum()
    assert rows > columns > 10
    assert abs(drawn.any(0).nonzero()[0].mean() - WIDTH / 2) < 2
    np.testing.assert_array_equal(see(world.NEVER), see(3))


@pytest.mark.parametrize("colour", range(world.DOORS))
def test_doors_have_the_colour_of_their_key(colour):
    """A closed door fills the view with red, green or blue."""
    observe = observer(PUZZLE)
    doors = np.full((world.DOORS, 2), -1, np.int32)
    doors[colour] = (6, 5)
    state = scene([(6, 5)], position=(5.3, 5.5))._replace(doors=doors)
    picture = np.asarray(observe(state, PARAMS)).astype(int)
    middle = picture[20:50, 30:66].reshape(-1, 3).mean(0)
    assert middle.argmax() == colour
    assert middle[colour] > 1.8 * np.delete(middle, colour).max()


def test_looking_up_moves_everything_down(see):
    """A pitch is a shift of the picture by whole rows where its tangent is whole."""
    level = scene([(7, 4)], [(world.LEMON, 7.5, 6.5)])
    rows = 10
    for sign in (1, -1):
        pitch = sign * np.arctan(rows / (WIDTH / 2))
        shifted = see(moved(level, pitch=pitch))
        flat = see(level)
        upper, lower = (shifted, flat) if sign < 0 else (flat, shifted)
        assert (upper[:-rows] != lower[rows:]).any(-1).mean() < 0.005
        assert (shifted != flat).any()


def test_jumping_raises_the_eye(see_plain):
    """Of a wall 1.5 cells ahead less is above the horizon and more below it."""
    state = scene([(7, 5)])
    for height in (0.0, 0.3):
        column = is_wall(see_plain(moved(state, height=height)))[:, WIDTH // 2]
        above, below = column[: HEIGHT // 2].sum(), column[HEIGHT // 2 :].sum()
        scale, eye = WIDTH / 2 / 1.5, 0.5 + height
        np.testing.assert_allclose(
            [above, below], [(1 - eye) * scale, eye * scale], atol=1
        )


def test_a_shot_flashes_low_in_the_middle(see):
    """The flash changes the lower middle alone."""
    state = scene()
    fired = see(state._replace(flash=np.bool_(True)))
    rows, columns = (fired != see(state)).any(-1).nonzero()
    assert len(rows) > 50
    assert rows.min() > HEIGHT / 2
    assert columns.min() > WIDTH / 4
    assert columns.max() < 3 * WIDTH / 4


def test_pictures_keep_shape_and_dtype_in_a_scan_and_equal_those_alone():
    """Under jit, vmap and scan it is the same picture; other sizes come as given."""
    task = labyrinth.task(
        "explore_object_locations_small", {"observation": "pixels", "size": [20, 36]}
    )
    keys = jax.random.split(jax.random.key(3), 3)
    action = np.int32([4, 0, 0, 1, 0, 0])

    def play(key):
        def step(carry, _):
            state, _ = carry
            state, obs, *_ = task.step(key, state, action, task.params)
            return (state, obs), obs

        return jax.lax.scan(step, task.reset(key, task.params), None, length=3)[1]

    many = jax.device_get(jax.jit(jax.vmap(play))(keys))
    assert many.shape == (3, 3, 20, 36, 3) and many.dtype == np.uint8
    one = jax.device_get(jax.jit(play)(keys[1]))
    assert (many[1] != one).any(-1).mean() < 0.005
    assert (one[0] != one[1]).any()
    (name,) = task.spec.obs
    assert (name, task.spec.obs[name].shape) == ("image", (20, 36, 3))


@pytest.mark.parametrize(
    "size",
    [
        *([15, 96], [72, 0], [72], [72, 96, 3], 72, ["a", 96], [72.0, 96.0], None),
        [16, 2**40],
    ],
)
def test_sizes_that_cannot_be_are_refused(size):
    """The error says what was given and what would work."""
    with pytest.raises(ValueError, match=r"options.size: got .*\[72, 96\]"):
        labyrinth.task("seekavoid_arena_01", {"observation": "pixels", "size": size})


# Name, level, key, and where the agent looks.
FRAMES = [
    ("maze", "explore_object_locations_small", 5, {"yaw": 0.7}),
    ("jump", "seekavoid_arena_01", 10, {"yaw": 1.0, "height": 0.3, "pitch": -0.2}),
    ("melon", "explore_object_locations_large", 46, {"yaw": 1.0, "pitch": 0.15}),
    ("shot", "lasertag_three_opponents_small", 11, {"yaw": 2.0, "flash": True}),
    ("key", "rooms_keys_doors_puzzle", 3, {"yaw": 4.0}),
    ("door", "rooms_keys_doors_puzzle", 0, {"yaw": 5.0}),
    ("pool", "rooms_watermaze", 0, {"yaw": 3.0}),
]


@pytest.mark.parametrize(("name", "level", "key", "looks"), FRAMES)
def test_golden_frames_are_as_they_were(name, level, key, looks):
    """Fixed keys give the very pictures that were looked at and saved."""
    kind, params = levels.LEVELS[level].kind, labyrinth.task(level).params
    state = dealer(kind)(jax.random.key(key), params)
    body = dict(looks)
    flash = body.pop("flash", False)
    state = moved(state, **body)._replace(flash=np.bool_(flash))
    picture = np.asarray(observer(kind)(state, params))
    path = GOLDEN / f"labyrinth_{name}.png"
    if os.environ.get("MTRL_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    golden = np.asarray(Image.open(path))
    changed = (picture != golden).any(-1)
    assert not changed.any(), (
        f"{changed.sum()} elements differ; see the file's docstring"
    )


def test_the_map_shows_what_there_is():
    """Agent, things and walls are where they are; hidden things are outlines."""
    state = scene([(3, 3)], [(world.APPLE, 8.5, 8.5)], position=(5.5, 5.5))
    drawn = topdown.draw(state, PARAMS, 220)  # 20 pixels a cell
    assert drawn.shape == (220, 220, 3) and drawn.dtype == np.uint8
    assert (drawn[110, 110] == 255).all()
    assert drawn[170, 170].tolist() == [224, 32, 32]
    assert drawn[70, 70].tolist() != drawn[90, 70].tolist()
    hidden = PARAMS._replace(hidden=np.bool_(True))
    outline = topdown.draw(state, hidden, 220)
    assert outline[170, 170].tolist() != [224, 32, 32]
    assert outline[170, 164].tolist() == [224, 32, 32]
    gone = topdown.draw(scene([(3, 3)]), PARAMS, 220)
    assert (gone != drawn).any(-1).sum() < 200


def test_the_map_shows_doors_bots_and_what_is_in_view():
    """Doors in their colour, bots that are there, the floor ahead lighter."""
    state = scene([(2, 3)])
    doors = np.full((world.DOORS, 2), -1, np.int32)
    doors[1] = 2, 3
    places = np.float32([[8.5, 2.5], [2.5, 8.5], [2.5, 8.5]])
    bots = state.bots._replace(position=places, away=np.int32([0, 4, world.NEVER]))
    state = state._replace(doors=doors, bots=bots)

    def colour(drawn, x, y):
        return tuple(drawn[int(20 * y), int(20 * x)].tolist())

    drawn = topdown.draw(state, PARAMS, 220)
    green, bot = (0x30, 0xD8, 0x40), (0xE0, 0x30, 0xE0)
    assert colour(drawn, 2.5, 3.5) == green
    assert colour(drawn, 8.5, 2.5) == bot != colour(drawn, 2.5, 8.5)
    seen, floor = topdown._SEEN, topdown._FLOOR
    for yaw, x, y in ((0.0, 8.5, 5.5), (np.pi / 2, 5.5, 8.5), (np.pi, 2.5, 5.5)):
        drawn = topdown.draw(moved(state, yaw=yaw), PARAMS, 220)
        assert colour(drawn, x, y) == seen
        assert colour(drawn, 11 - x, 11 - y) == floor


def test_a_mixture_draws_the_slots_that_have_a_picture():
    """Each part draws its own slots, as it would alone; a part without pictures none."""
    probe = core.vectorise(probes.task(probes.names()[0]), (1, 1))
    maze = core.vectorise(
        labyrinth.task("seekavoid_arena_01", {"actions": "small"}), (1, 2)
    )
    env = mixture.make([probe, maze])
    state, _ = jax.device_get(jax.jit(env.reset)(random.roots(0, 1), env.params))
    assert env.render(state, 0, 0) is None
    drawn = env.render(state, 0, 2)
    assert drawn.shape == (3 * HEIGHT, 3 * (WIDTH + HEIGHT), 3)
    np.testing.assert_array_equal(drawn, maze.render(state[1], 0, 1))
    assert (drawn != env.render(state, 0, 1)).any()
    with pytest.raises(IndexError, match="slot 3"):
        env.render(state, 0, 3)
