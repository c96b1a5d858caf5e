"""What a law answers: losses, the parameters for one, and the optimum of a budget, for many laws at once."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.surface.contour import proportional_contour
from analysis.surface.law import (
    SEARCH_DECADES,
    LossSurface,
    SurfaceLaw,
    constants_along,
    parameter_vector,
)
from analysis.surface.problem import SurfacePoints
from mor_core.config.sizes import SMALL_LADDER, model_config
from tests.helpers.runs.shape_contours import contour_of_shapes

CENTRE = (np.log(3e8), np.log(2e10))
SHAPES = contour_of_shapes([model_config(size, vocab_size=4096, context_length=256) for size in SMALL_LADDER], "exact")


def vectors(*, centre_terms=(0.1, 3.0), exponents=(0.1, 0.8)):
    """Parameters of a law: its terms at the middle of the data, E, and its exponents."""
    term = st.floats(*centre_terms).map(np.log)
    exponent = st.floats(*exponents)
    return st.tuples(term, term, term, exponent, exponent).map(lambda values: parameter_vector(*values))


laws = st.lists(vectors(), min_size=1, max_size=4).map(
    lambda thetas: SurfaceLaw(theta_kp=np.array(thetas), centre=CENTRE)
)
sizes = st.floats(3e6, 3e10)
token_counts = st.floats(2e8, 2e12)


@given(laws, sizes, token_counts)
def test_the_loss_is_the_published_formula_of_the_constants(law, params, tokens):
    formula = law.E + law.A / params**law.alpha + law.B / tokens**law.beta
    assert law.loss(params, tokens) == pytest.approx(formula, rel=1e-12)
    assert law.constants().loss(params, tokens) == pytest.approx(formula[0], rel=1e-12)


@given(laws, sizes, token_counts)
def test_the_parameters_for_a_loss_have_that_loss(law, params, tokens):
    loss_k = law.loss(params, tokens)
    # What is left of a loss after the other terms are taken away has fewer digits than the loss.
    kept = law.A / params**law.alpha / loss_k * law.alpha
    assert law.params_for(loss_k, tokens) == pytest.approx(np.full(len(law), params), rel=1e-12 / kept.min())
    assert law.loss(law.params_for(loss_k, tokens), tokens) == pytest.approx(loss_k, rel=1e-12)


@given(laws, sizes, token_counts)
def test_a_loss_that_tokens_never_reach_takes_endless_parameters(law, params, tokens):
    floor_k = law.E + law.B / tokens**law.beta
    assert np.isinf(law.params_for(floor_k * (1 - 1e-9), tokens)).all()
    assert np.isinf(law.params_for(law.E * (1 - 1e-9), tokens)).all()


def test_a_law_that_rises_with_parameters_takes_endless_ones():
    law = SurfaceLaw(theta_kp=parameter_vector(0.0, 0.0, 0.0, -0.1, 0.3)[None], centre=CENTRE)
    assert not law.falls.any()
    assert not law.reaches(100.0).any()
    assert np.isinf(law.params_for(2.5, 2e10)).all()


@pytest.mark.parametrize("shape", [(), (3,), (1, 5), (3, 5), (3, 5, 2)], ids=["number", "K", "1 m", "K m", "K m n"])
def test_answers_have_an_axis_for_the_laws_and_then_those_of_the_question(shape):
    law = SurfaceLaw(
        theta_kp=np.stack([parameter_vector(0.1 * k, 0.2, 0.5, 0.3 + 0.1 * k, 0.4) for k in range(3)]), centre=CENTRE
    )
    params = np.broadcast_to(np.float64(1e9), shape)
    loss = law.loss(params, 1e11)
    assert loss.shape == (3, *shape[1:])
    assert law.params_for(loss, 1e11).shape == loss.shape
    for k in range(3):
        alone = SurfaceLaw(theta_kp=law.theta_kp[[k]], centre=CENTRE)
        assert (loss[k] == alone.loss(1e9, 1e11)[0]).all()


def contours():
    factor = st.floats(2.0, 20.0).map(lambda factor: proportional_contour([3e6, 3e10], factor))
    return st.one_of(factor, st.just(SHAPES))


LEAST_AT_THE_END = SurfaceLaw(theta_kp=parameter_vector(0.0, 0.0, 0.0, 0.125, 0.75)[None], centre=CENTRE)
"""At a tenth of the middle budget of SHAPES its loss still falls where the range searched for the optimum ends."""


@example(LEAST_AT_THE_END, SHAPES, -1.0)
@given(laws, contours(), st.floats(-1.0, 1.0))
def test_the_optimum_is_on_the_contour_of_equal_flops_and_no_neighbour_searched_is_better(law, contour, decades):
    middle = np.exp((contour.log_params[0] + contour.log_params[-1]) / 2)
    flops = float(20 * middle * contour.flops_per_token(np.array(middle))) * 10**decades
    best = law.optimum(flops, contour)
    assert contour.flops_per_token(best.params_k) * best.tokens_k == pytest.approx(np.full(len(law), flops), rel=1e-12)
    assert best.loss_k == pytest.approx(law.loss(best.params_k, best.tokens_k), rel=1e-12)
    near_km = best.params_k[:, None] * np.exp(np.array([-1.0, -0.1, -1e-3, 1e-3, 0.1, 1.0]))
    near_loss_km = law.loss(near_km, contour.tokens(near_km, flops))
    searched_km = (near_km > contour.lowest / 10**SEARCH_DECADES) & (near_km < contour.highest * 10**SEARCH_DECADES)
    assert (near_loss_km >= best.loss_k[:, None] * (1 - 1e-12))[searched_km].all()


@given(laws, st.floats(1.05, 3.0), st.floats(-8.0, 8.0))
def test_models_of_a_loss_have_it_whatever_share_is_left_to_tokens(law, factor, logit):
    loss = float(law.E.max() * factor)
    log_params_km, log_tokens_km = law.at_loss(loss, np.full((len(law), 1), logit))
    reached = law.loss(np.exp(log_params_km), np.exp(log_tokens_km))
    assert reached == pytest.approx(np.full_like(reached, loss), rel=1e-9)
    back_k = [law.token_logit(loss, log_params)[k] for k, log_params in enumerate(log_params_km[:, 0])]
    assert back_k == pytest.approx(np.full(len(law), logit), abs=1e-6)


@given(vectors())
def test_a_constant_of_a_law_is_what_its_direction_says(theta):
    law = SurfaceLaw(theta_kp=theta[None], centre=CENTRE).constants()
    for constant in constants_along(CENTRE):
        assert constant.value(theta @ constant.direction) == pytest.approx(getattr(law, constant.name), rel=1e-9)


def test_constants_come_back_from_the_law_made_of_them():
    law = LossSurface(E=1.8172, A=482.0, alpha=0.3478, B=2085.0, beta=0.3658)
    again = law.as_law.constants()
    assert [again.E, again.A, again.alpha, again.B, again.beta] == pytest.approx(
        [law.E, law.A, law.alpha, law.B, law.beta], rel=1e-14
    )


def test_tied_exponents_leave_one_direction_for_both():
    points = SurfacePoints(log_params=np.arange(3.0), log_tokens=np.arange(3.0), loss=np.ones(3))
    assert points.free_directions(tied=False).shape == (5, 5)
    tied = points.free_directions(tied=True)
    assert tied.shape == (5, 4)
    moved = SurfaceLaw(theta_kp=(tied @ np.arange(1.0, 5.0))[None], centre=CENTRE)
    assert moved.alpha == moved.beta
