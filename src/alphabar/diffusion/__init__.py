"""The maths of diffusion models: pure torch, no framework.

Notation, the same in every file:

    x            clean data, [B, ...]
    eps          standard normal noise, the shape of x
    t, s         times with s < t, shape [B]; data lives at t = 0
    alpha_t      signal scale, sigma_t noise scale: x_t = alpha_t * x + sigma_t * eps
    alpha_bar    alpha_t ** 2 of a discrete, variance-preserving schedule (`alphas_cumprod` elsewhere)
    snr          (alpha_t / sigma_t) ** 2; lambda = ln(alpha_t / sigma_t), half its log
    y            what the network outputs: y = a * x + b * eps, with (a, b) from the parameterization
    x_hat        prediction of x, eps_hat prediction of eps
    cond         what the network is conditioned on, None if nothing

Reading order: `schedules` (t -> alpha_t, sigma_t), `parameterizations` (what y means), `denoiser` (x_t, t -> x_hat, eps_hat),
`objectives` (what is minimised: times, couplings and weightings), `timesteps` and `thresholdings` (how samplers look), `samplers`
(noise -> data), `variances` and `bound` (of discrete processes), `likelihood`, `noise` (where randomness comes from), `errors`
(which parts do not go together).
"""
