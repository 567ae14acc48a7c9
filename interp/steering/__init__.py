"""Steering: write features into a model's activations while it runs, in stated units.

A feature f has a unit direction d_f, a strength s_f, and a_f, the length of what strength 1 adds. At one hook site, at every
token of text that is chosen (never at the beginning-of-sequence token, which also separates documents), an activation row x
becomes

    add      x + sum_f s_f a_f d_f              what is there stays, and the feature is added
    clamp    x + sum_f (s_f a_f - c_f(x)) d_f   the feature contributes s_f a_f, whatever it contributed before
    scale    x + sum_f (s_f - 1) c_f(x) d_f     the feature contributes s_f times as much; 1 changes nothing
    ablate   x - sum_f s_f c_f(x) d_f           the share s_f of what the feature contributes is removed

where c_f(x) is what feature f contributes to the row. If codes decode, and the run reads the site it writes, that is the run's
own code times the length of the decoder row, c_f(x) = z_f(x) |W_dec[f]|. So what the decoder leaves unexplained stays in the
row, as do all other features (Templeton et al. 2024, "Scaling Monosemanticity", on steering). Otherwise, for bare directions,
codes that do not decode, and features written elsewhere than they are read, c_f is the coefficient d_f.x; of several oblique
directions, the rows of D, all coefficients reach their targets at once by the smallest change: with D^+ the pseudo-inverse of
D and t the changes of the coefficients, x + D^+ t.

a_f is what the feature adds at its maximum on the store, or the mean norm of the site's rows (``interp.steering.scales``).
Latents that are quadratic forms have two modes more (``interp.steering.forms``).

Strengths of different features and methods are not comparable; their effects are. ``Steerer.strength_for_kl`` finds, in any
mode, the strength whose effect on neutral text, the mean over the same tokens of KL(p_0 || p_s), is a given number of nats
per token.

What is written is a list of ``SiteEdit``, one for each hook site. Models are run with such lists by ``effects`` (what they
change on a text) and ``sampling`` (continuations), so that several layers can be steered at once; a ``Steerer`` makes them.
"""
