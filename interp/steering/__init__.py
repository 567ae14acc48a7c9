"""Steering: write features into a model's activations while it runs, in stated units.

At one hook site, at every token of text (all but the beginning-of-sequence token, which also separates documents), an
activation row x becomes

    add      x + sum_f s_f a_f d_f
    clamp    x + D^+ (t - D x)   with t_f = s_f a_f          (the coefficient along d_f becomes s_f a_f)
    ablate   x + D^+ (t - D x)   with t_f = (1 - s_f) d_f.x  (s_f = 1 removes the component, 0 leaves it)

with unit directions d_f (rows of D, D^+ its pseudo-inverse, so that several features reach their targets at once by the
smallest change), strengths s_f in multiples of the feature's own maximum on its store, and a_f the length of what the feature
adds to an activation at that maximum.

Strengths of different features and methods are not comparable; their effects are. ``Steerer.strength_for_kl`` finds the
strength whose effect on neutral text, the mean over the same tokens of KL(p_0 || p_s), is a given number of nats per token.
"""
