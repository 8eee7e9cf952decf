"""The command line: the application, its options, and one file a command."""
