"""Reinforcement learning: environments, roll-outs, rewards, the policy loss and the loop."""
