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
