"""Random configurations of every variant, for properties that must hold for all of them."""

from fractions import Fraction

from hypothesis import strategies as st

from mor_core.config.model import ExpertChoice, ModelConfig, Recursion, TokenChoice
from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig

weights = st.floats(0, 1, allow_nan=False)
scales = st.floats(1e-3, 10, allow_nan=False)
routers = st.sampled_from(["linear", "mlp", "wide-mlp", "random"])


@st.composite
def capacities(draw, count: int) -> tuple[Fraction, ...]:
    """Shares of `count` recursions: the first 1, none greater than the one before it."""
    later = draw(
        st.lists(
            st.fractions(min_value=Fraction(1, 50), max_value=1, max_denominator=99),
            min_size=count - 1,
            max_size=count - 1,
        )
    )
    return (Fraction(1), *sorted(later, reverse=True))


@st.composite
def expert_choices(draw, count: int) -> ExpertChoice:
    """Expert-choice routing over `count` recursions."""
    return ExpertChoice(
        router=draw(routers),
        activation=draw(st.sampled_from(["sigmoid", "tanh", "none"])),
        alpha=draw(scales),
        gating=draw(st.sampled_from(["weighted", "additive"])),
        auxiliary=draw(st.sampled_from(["loss", "router"])),
        aux_loss_weight=draw(weights),
        z_loss_weight=draw(weights),
        capacities=draw(st.none() | capacities(count)),
        capacity_warmup_steps=draw(st.integers(0, 60)),
        threshold_decay=draw(st.floats(0, 0.999)),
    )


token_choices = st.builds(
    TokenChoice,
    router=routers,
    activation=st.sampled_from(["softmax", "sigmoid"]),
    alpha=scales,
    gating=st.sampled_from(["per-step", "exit"]),
    balancing=st.sampled_from(["loss", "loss-free", "none"]),
    balancing_loss_weight=weights,
    bias_update_rate=weights,
    z_loss_weight=weights,
)


@st.composite
def models(draw) -> ModelConfig:
    """A small model of any architecture, sharing, key-value strategy and routing."""
    count = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["fixed", "expert", "token"])) if count > 1 else "fixed"
    cycles, others = ["cycle", "middle-cycle"], ["sequence", "middle-sequence"]
    kvs = ["recursion-wise", "shared", "hybrid"][: {"fixed": 2, "expert": 3, "token": 2}[kind]] if count > 1 else []
    recursion = Recursion(
        count=count,
        sharing=draw(st.sampled_from(cycles if kind != "fixed" else cycles + others)),
        kv=draw(st.sampled_from(kvs or ["recursion-wise"])),
    )
    routing = {"fixed": st.none(), "expert": expert_choices(count), "token": token_choices}[kind]
    return model_config(
        SIZES[draw(st.sampled_from(["35k", "51k", "3.2M"]))],
        vocab_size=64,
        context_length=draw(st.sampled_from([16, 24])),
        recursion=recursion,
        routing=draw(routing),
        fit_depth=draw(st.sampled_from(["raise", "shrink"])),
    )


train_configs = st.builds(
    TrainConfig,
    batch_size=st.integers(1, 64),
    peak_learning_rate=scales,
    warmup_steps=st.integers(0, 20),
    decay_on=st.sampled_from(["all-matrices", "hidden-matrices"]),
    precision=st.sampled_from(["fp32", "bf16"]),
    cosine_steps=st.none() | st.integers(21, 10**6),
    cosine_floor=st.floats(0, 0.9),
)
