"""What accelerators get: lowered here, without one."""

import re

import jax
import optax
import pytest
from jax import export

from wlsrl_jax.losses import make_loss
from wlsrl_jax.models.by_name import make_model
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.training import step as steps
from wlsrl_jax.training.optimizer import make_optimizer

HEADS = {"TO1": 4, "TO2": 2}


def lowered(platform, implementation):
    """The text of the train step and of the predict step."""
    model = make_model("tiny", HEADS, conv_implementation=implementation)
    optimizer = make_optimizer("adamw", optax.constant_schedule(1e-3), clip_norm=1.0)
    losses = {t: make_loss("wlsrl", num_classes=c, smoothing=0.1) for t, c in HEADS.items()}
    step = steps.make_train_step(model, optimizer, losses, dict.fromkeys(HEADS, 1.0), seed=0)
    state = jax.eval_shape(lambda: steps.init_state(model, optimizer, (16, 16, 1), 0))
    images = jax.ShapeDtypeStruct((8, 16, 16, 1), "uint8")
    labels = {t: jax.ShapeDtypeStruct((8,), "int32") for t in HEADS}
    predict = make_predict_step(model)
    parts = [
        export.export(jax.jit(step), platforms=[platform])(
            state, {"image": images, "labels": labels}
        ),
        export.export(jax.jit(predict), platforms=[platform])(state.ema, images),
    ]
    lines = "\n".join(p.mlir_module() for p in parts).splitlines()
    return "\n".join(re.sub(r" loc\(.*", "", line) for line in lines if not line.startswith("#loc"))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_steps_lower_without_a_cpu_formulation(platform):
    auto, plain = lowered(platform, "auto"), lowered(platform, "lax")
    assert "wlsrl" not in auto and "stablehlo.while" not in auto

    def products(text):
        return len(re.findall(r"stablehlo\.(?:convolution|dot_general)", text))

    assert products(auto) == products(plain)
    assert len(re.findall(r"feature_group_count = (?!1 )", auto)) == len(
        re.findall(r"feature_group_count = (?!1 )", plain)
    )
