import pytest
from hypothesis import given
from hypothesis import strategies as st

from mor_core.config.model import block_depth, layer_map, num_unshared_layers, raised_depth
from mor_core.config.sizes import shrunk_depth

STRATEGIES = ["cycle", "sequence", "middle-cycle", "middle-sequence"]


def test_nine_layers_in_three_recursions_share_as_in_table_5_of_the_paper():
    assert layer_map(9, 3, "cycle") == (0, 1, 2, 0, 1, 2, 0, 1, 2)
    assert layer_map(9, 3, "sequence") == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert layer_map(8, 3, "middle-cycle") == (0, 1, 2, 1, 2, 1, 2, 3)
    assert layer_map(8, 3, "middle-sequence") == (0, 1, 1, 1, 2, 2, 2, 3)


@pytest.mark.parametrize(
    ("layers", "recursions", "raised"), [(30, 3, 32), (32, 4, 34), (24, 3, 26), (32, 2, 32), (26, 4, 26), (30, 2, 30)]
)
def test_depth_is_raised_as_in_the_papers_configurations(layers: int, recursions: int, raised: int):
    assert raised_depth(layers, recursions, "middle-cycle") == raised


@pytest.mark.parametrize(
    ("layers", "recursions", "strategy", "shrunk"),
    [(30, 3, "middle-cycle", 29), (32, 3, "cycle", 30), (32, 3, "middle-sequence", 32), (30, 2, "sequence", 30)],
)
def test_depth_is_shrunk_as_in_table_10_of_the_paper(layers: int, recursions: int, strategy, shrunk: int):
    assert shrunk_depth(layers, recursions, strategy) == shrunk


@given(st.integers(3, 60), st.integers(1, 6), st.sampled_from(STRATEGIES))
def test_a_depth_is_shrunk_to_the_next_that_divides_and_raised_from_it_or_left_alone(layers, recursions, strategy):
    try:
        shrunk = shrunk_depth(layers, recursions, strategy)
    except ValueError:
        assert layers < recursions + num_unshared_layers(strategy)
        return
    assert layers - recursions < shrunk <= layers
    assert block_depth(shrunk, recursions, strategy) >= 1
    assert raised_depth(layers, recursions, strategy) - shrunk == (0 if shrunk == layers else recursions)


@given(st.integers(3, 60), st.integers(1, 6), st.sampled_from(STRATEGIES))
def test_every_shared_layer_is_applied_once_per_recursion_and_the_others_once(layers, recursions, strategy):
    depth = raised_depth(layers, recursions, strategy)
    phi = layer_map(depth, recursions, strategy)
    unshared = num_unshared_layers(strategy) if recursions > 1 else 0
    counts = [phi.count(layer) for layer in range(max(phi) + 1)]
    assert len(phi) == depth
    assert depth - layers < recursions
    assert len(counts) == block_depth(depth, recursions, strategy) + unshared
    edges = 1 if unshared else 0
    assert all(count == recursions for count in counts[edges : len(counts) - edges])
    assert [counts[0], counts[-1]] == [1, 1] or not unshared


def test_a_depth_that_does_not_divide_names_one_that_does():
    with pytest.raises(ValueError, match="use 32 layers"):
        layer_map(30, 3, "middle-cycle")


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="middle-cycle"):
        num_unshared_layers("spiral")  # pyright: ignore[reportArgumentType]
