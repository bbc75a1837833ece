"""stable_baselines3: actor and critic of one policy, as the two outputs of one model."""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from real_models.zoo.case import add, load
from real_models.zoo.draw import normal, uniform


class ActorCritic(nn.Module):
    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.p = policy

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        action = self.p.get_distribution(observation).distribution
        mean = action.loc if hasattr(action, "loc") else action.logits
        return mean, self.p.predict_values(observation)


def actor_critic(pictures: bool = False, discrete: bool = False) -> nn.Module:
    spaces = load("gymnasium").spaces
    policies = load("stable_baselines3.common.policies")
    seen = spaces.Box(0, 255, (3, 64, 64), np.uint8) if pictures else spaces.Box(-1, 1, (6,), np.float32)
    done = spaces.Discrete(4) if discrete else spaces.Box(-1, 1, (3,), np.float32)
    make = policies.ActorCriticCnnPolicy if pictures else policies.ActorCriticPolicy
    return ActorCritic(make(seen, done, lambda _: 3e-4))


add("sb3.MlpPolicy", actor_critic, normal(16, 6))
add("sb3.MlpPolicy-discrete", partial(actor_critic, discrete=True), normal(16, 6))
add("sb3.CnnPolicy", partial(actor_critic, pictures=True, discrete=True), uniform(4, 3, 64, 64))
