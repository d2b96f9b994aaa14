import numpy as np
import torch
from torch import nn

from dpcr.momentum_descent import MomentumDescent


def test_steps_are_those_of_the_formula():
    random = np.random.default_rng(0)
    theta = random.normal(size=(4, 3))
    parameter = nn.Parameter(torch.from_numpy(theta.copy()))
    descent = MomentumDescent({"theta": parameter}, momentum=0.9, weight_decay=0.1)
    velocity = np.zeros_like(theta)
    for step in range(5):
        gradient = random.normal(size=theta.shape)
        parameter.grad = torch.from_numpy(gradient.copy())
        descent.step(0.1 / (step + 1))
        velocity = 0.9 * velocity + gradient + 0.1 * theta
        theta = theta - 0.1 / (step + 1) * velocity
        np.testing.assert_allclose(parameter.detach().numpy(), theta, rtol=1e-13)
        assert torch.equal(parameter.grad, torch.from_numpy(gradient))
    np.testing.assert_allclose(descent.velocities["theta"].numpy(), velocity, rtol=1e-13)


def test_a_parameter_without_a_gradient_stays():
    still, moved = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    descent = MomentumDescent({"still": still, "moved": moved}, momentum=0.9, weight_decay=1.0)
    descent.step(0.1)
    moved.grad = torch.ones(2)
    descent.step(0.1)
    assert torch.equal(still, torch.ones(2))
    assert list(descent.velocities) == ["moved"]
    descent.clear()
    assert moved.grad is None
