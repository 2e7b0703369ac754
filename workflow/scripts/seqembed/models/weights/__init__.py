"""Read a checkpoint's weights safely, check them, and put them into an encoder."""
