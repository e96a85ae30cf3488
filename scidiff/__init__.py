"""The common core: processes, denoisers, samplers, guidance and training."""
