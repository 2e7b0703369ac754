"""What the workflow's rules need beside the configuration."""
