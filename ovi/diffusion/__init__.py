"""Flow matching: noise levels, solvers, guidance, requests, and the sampler that turns a request into a clip."""
