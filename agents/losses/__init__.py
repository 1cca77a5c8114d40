"""Every loss and estimator as a pure function of tensors with masks.

In the notation of the cards: GAE, clipped policy losses and KLs (`on_policy`), leave-one-out and
group baselines (`groups`), the weights of distributional control (`distributional`), hindsight
(`hindsight`), temporal differences and expectiles (`offline`), label smoothing (`cloning`).
Imports only `text_envs.lm`.
"""
