import pytest

from tests.tiny import tiny_config
from wlsrl_jax.config.check_fields import (
    BELOW_ONE,
    FRACTION,
    FROM_MINUS_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    check_fields,
)
from wlsrl_jax.files import flatten

WRONG = [
    *((name, value) for name in POSITIVE for value in (0, -1)),
    *((name, -1) for name in NOT_NEGATIVE),
    *((name, -2) for name in FROM_MINUS_ONE),
    *((name, value) for name in FRACTION for value in (-0.1, 1.1)),
    *((name, value) for name in BELOW_ONE for value in (-0.1, 1.0)),
    ("task_weights.TO2", -1.0),
    ("num_epochs", float("nan")),
    ("optimizer.learning_rate", float("inf")),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_each_field_is_named(name, value):
    config = tiny_config()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(ValueError, match=rf"config\.{name}={value}.* must be"):
        check_fields(config)


def test_all_wrong_fields_are_listed_at_once():
    with pytest.raises(ValueError, match=r"batch_size=0 .*loss\.smoothing=2"):
        check_fields(tiny_config(batch_size=0, loss__smoothing=2.0))


def test_a_sampling_that_is_not_there():
    wanted = r"config\.data\.sampling='even' must be one of natural, sqrt, balanced"
    with pytest.raises(ValueError, match=wanted):
        check_fields(tiny_config(data__sampling="even"))


@pytest.mark.parametrize("name", ["oct", "fundus"])
def test_every_number_has_a_range(name):
    config = tiny_config(name)
    check_fields(config)
    numbers = {
        k for k, v in flatten(config.to_dict()).items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }  # fmt: skip
    ranged = {*POSITIVE, *NOT_NEGATIVE, *FROM_MINUS_ONE, *FRACTION, *BELOW_ONE}
    assert {n for n in numbers if not n.startswith("task_weights.")} == ranged
