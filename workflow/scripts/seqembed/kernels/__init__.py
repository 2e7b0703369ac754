"""Steps of the encoders: plain formulas, and the kernels in Triton that equal them."""
