"""Value, process and outcome critics, and the tools they may use."""
