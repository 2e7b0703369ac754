"""What the workflow's rules ask beside the configuration."""
