"""Read a model's weights safely, check them, and put them into an encoder."""
