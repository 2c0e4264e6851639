"""Priors, guidance and integrators."""

if __name__ != "appa_prob.samplers":
    raise ImportError("Import this package as `appa_prob.samplers`.")
