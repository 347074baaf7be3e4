import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brushwork.flow.guidance import Guidance
from brushwork.flow.path import interpolate, sample_timesteps, shift_timesteps, timestep_grid, velocity_from_data
from brushwork.flow.solver import euler


def test_time_runs_from_data_to_noise():
    data, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    assert torch.equal(interpolate(data, noise, torch.zeros(5, dtype=torch.float64)), data)
    assert torch.equal(interpolate(data, noise, torch.ones(5, dtype=torch.float64)), noise)


def test_the_derivative_of_the_path_is_noise_minus_data():
    data, noise = torch.randn(2, 1, 3, dtype=torch.float64)
    t = torch.tensor([0.4], dtype=torch.float64)
    slope = torch.func.jacfwd(lambda t: interpolate(data, noise, t)[0])(t)[:, 0]
    torch.testing.assert_close(slope, (noise - data)[0])


def test_velocity_from_the_true_data_is_the_true_velocity():
    data, noise = torch.randn(2, 4, 3, dtype=torch.float64)
    t = torch.tensor([0.1, 0.4, 0.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(velocity_from_data(data, interpolate(data, noise, t), t), noise - data)


def test_euler_is_exact_on_a_straight_path():
    data, noise = torch.randn(2, 4, 3)
    for steps in (1, 7):
        result = euler(lambda x, t: noise - data, noise, timestep_grid(steps, shift=3.0))
        torch.testing.assert_close(result, data, atol=1e-5, rtol=1e-5)


@given(st.floats(0.2, 8), st.integers(1, 20))
def test_the_grid_falls_from_one_to_zero(shift, steps):
    grid = timestep_grid(steps, shift=shift)
    assert len(grid) == steps + 1
    assert abs(grid[0] - 1) < 1e-6
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()


def test_shift_moves_training_times_towards_noise():
    generator = torch.Generator().manual_seed(0)
    plain = sample_timesteps(1000, generator=generator)
    shifted = sample_timesteps(1000, shift=4.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shifted, shift_timesteps(plain, 4.0))
    assert ((plain > 0) & (plain < 1)).all()
    assert shifted.mean() > plain.mean() + 0.2


def test_guidance_formula_and_renormalisation():
    v, u = torch.randn(2, 3, 4, 5)
    plain = Guidance(text_scale=3.0, renorm="none")(v, u)
    torch.testing.assert_close(plain, u + 3 * (v - u))
    whole = Guidance(text_scale=3.0)(v, u)
    assert (whole.norm(dim=(1, 2)) <= v.norm(dim=(1, 2)) + 1e-4).all()
    token = Guidance(text_scale=3.0, renorm="channel")(v, u)
    assert (token.norm(dim=-1) <= v.norm(dim=-1) + 1e-4).all()
    torch.testing.assert_close(Guidance(text_scale=3.0, renorm_min=1.0)(v, u), plain)
    torch.testing.assert_close(Guidance(text_scale=1.0)(v, u), v)


def test_each_image_is_renormalised_by_itself():
    v, u = torch.randn(2, 3, 4, 5)
    guidance = Guidance(text_scale=3.0)
    torch.testing.assert_close(guidance(v, u)[1:2], guidance(v[1:2], u[1:2]))


def test_the_interval_is_open_below_and_closed_above():
    guidance = Guidance(text_scale=2.0, interval=(0.4, 1.0))
    assert [guidance.active(t) for t in (0.4, 0.41, 1.0)] == [False, True, True]
    assert not Guidance(text_scale=1.0).active(0.5)


def test_guidance_by_images_comes_after_that_by_text():
    v, u, c = torch.randn(3, 2, 4, 5)
    plain = Guidance(text_scale=3.0, image_scale=1.5, renorm="none")(v, u, c)
    torch.testing.assert_close(plain, c + 1.5 * (u + 3 * (v - u) - c))
    # Without images in the context that branch is the main one: just more guidance by text (BAGEL).
    torch.testing.assert_close(
        Guidance(text_scale=3.0, image_scale=1.5, renorm="none")(v, u), v + (3 - 1) * 1.5 * (v - u)
    )
    by_token = Guidance(text_scale=3.0, image_scale=1.5, renorm="text_channel")(v, u, c)
    text = Guidance(text_scale=3.0, renorm="channel")(v, u)
    torch.testing.assert_close(by_token, c + 1.5 * (text - c))


def test_an_unknown_renormalisation_is_refused():
    with pytest.raises(ValueError, match="'globe'; expected one of none, global"):
        Guidance(renorm="globe")


def test_extended_velocities_are_exact_where_the_velocity_is_linear_in_time():
    asked = []

    def velocity(x, t):
        asked.append(t)
        return torch.full_like(x, 2 + 3 * t)

    noise, grid = torch.randn(2, 4, 3), timestep_grid(12)
    whole = euler(lambda x, t: torch.full_like(x, 2 + 3 * t), noise, grid)
    torch.testing.assert_close(euler(velocity, noise, grid, every=3), whole)
    assert len(asked) == 3 + 3  # three at the start, then every third of nine


def test_nothing_is_extended_from_one_kind_of_velocity_to_another():
    asked = []

    def velocity(x, t):
        asked.append(t)
        return torch.full_like(x, 10.0 if t > 0.45 else 1.0)

    noise, grid = torch.zeros(1, 1, 1), timestep_grid(10)
    result = euler(velocity, noise, grid, every=3, regime=lambda t: t > 0.45)
    torch.testing.assert_close(result, -torch.full_like(result, 6 * 1.0 + 4 * 0.1))
    assert any(t == pytest.approx(0.4) for t in asked)
